"""`python -m ctm_fast.planning`: compute the table of sizes anew."""

from .sizes import write

if __name__ == "__main__":
    write()
