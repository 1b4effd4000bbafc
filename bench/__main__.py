"""``make bench``: every benchmark, one after the other."""

from bench import launches, waiting, worker

if __name__ == "__main__":
    launches.main()
    waiting.main()
    worker.main()
