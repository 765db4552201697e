"""A verb as somebody types it, in this process."""

from typer.testing import CliRunner

from nightshift.cli.main import app

RUNNER = CliRunner()


def run(*arguments: str) -> str:
    """What it prints; fails when it does not end well."""
    result = RUNNER.invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout
