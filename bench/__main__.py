"""``make bench``: every benchmark, one after the other."""

from bench.launches import main

if __name__ == "__main__":
    main()
