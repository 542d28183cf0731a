"""`python -m ctm_fast`: the same as the `ctm-fast` command."""

from ctm_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
