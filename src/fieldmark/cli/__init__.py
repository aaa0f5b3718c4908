"""The command line: one file a verb. Parse, call, print; no logic."""


def main() -> None:
    """Run the command line."""
    from fieldmark.cli.dispatch import run

    run()
