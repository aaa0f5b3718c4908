"""`python -m fieldmark`, which is also what `torchrun -m fieldmark` starts."""

from fieldmark.cli import main

if __name__ == "__main__":
    main()
