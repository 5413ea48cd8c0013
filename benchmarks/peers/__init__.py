"""One small file for each library that is measured; `benchmarks.participants` lists them."""
