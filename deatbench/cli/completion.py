"""`deatbench completion`: the snippet that teaches a shell to complete commands and options."""

from __future__ import annotations

import rich_click as click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Examples:
      deatbench completion bash >> ~/.bashrc
      deatbench completion zsh >> ~/.zshrc
      deatbench completion fish > ~/.config/fish/completions/deatbench.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    print(kind(ctx.find_root().command, {}, "deatbench", "_DEATBENCH_COMPLETE").source())
