"""``python -m directview`` is the command ``directview``."""

from directview.cli import main

if __name__ == "__main__":
    main(prog_name="directview")
