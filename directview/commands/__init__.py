"""The commands of the command line, by subject; `directview.cli` puts them together."""
