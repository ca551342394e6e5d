"""The commands of the service: serve, and the tokens that people and programs sign in with."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeper.cli.options import DEFAULT_STORAGE, Json, Storage, console, print_json

token = typer.Typer(help="Make, list and revoke the tokens that the service is signed in with.")
Role = Annotated[
    Literal["viewer", "operator"],
    typer.Option(help="viewer reads; operator also launches, pauses, stops and deletes."),
]


def serve(
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    sign_in: Annotated[
        bool | None,
        typer.Option(
            "--sign-in/--no-sign-in",
            show_default=False,
            help="Ask for a token [yes, but on loopback]",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name that it is asked by, as a proxy's; repeatable."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address of a proxy whose X-Forwarded headers count; repeatable."),
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path that a proxy has put it below.")] = "",
    dashboard_host: Annotated[
        str | None,
        typer.Option(help="Name for optuna-dashboard, which does not work below a path."),
    ] = None,
    dashboard_writes: Annotated[
        bool, typer.Option("--dashboard-writes", help="Let operators change studies in it.")
    ] = False,
    tasks: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of code that studies from the browser may name; repeatable."),
    ] = None,
    page: Annotated[
        list[Path] | None,
        typer.Option(
            help="TOML file of a page of figures, shown beside the ready ones; repeatable."
        ),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open it in a browser.")] = True,
) -> None:
    """Serve the pages, the JSON API and optuna-dashboard; on loopback unless told otherwise."""
    import gc
    import webbrowser

    from sweeper import service

    others = [*(allow_host or ()), *([] if dashboard_host is None else [dashboard_host])]
    asks = not service.is_loopback(host) if sign_in is None else sign_in
    settings = service.Settings(
        storage=storage,
        hosts=service.host_names(host, others),
        sign_in=asks,
        root_path=service.below(root_path),
        dashboard_host=None if dashboard_host is None else dashboard_host.lower(),
        dashboard_writes=dashboard_writes,
        folders=service.task_folders(tasks or ()),
        pages=service.pages_of(page or ()),
    )

    application = service.create_app(settings)
    trusted = service.proxies(trusted_proxy or ())
    server = service.Server(application, port, host, trusted=trusted, on_stop=application.stop)
    typer.echo(f"sweeper: {server.address} (Ctrl-C ends it)")
    if asks:
        typer.echo("sign-in is on: sweeper token create NAME makes a token")
    elif not service.is_loopback(host):
        typer.echo(f"sign-in is off: whoever reaches {host} may launch and delete", err=True)
    if browser:
        webbrowser.open(server.address)
    # What is loaded by now stays: to look through it for garbage again and again would hold up
    # answers.
    gc.collect()
    gc.freeze()
    server.serve_on()


@token.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    role: Role = "viewer",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Make a token and print it; it is not stored and cannot be shown again."""
    from sweeper import api

    typer.echo(api.create_token(name, role, storage))


@token.command("list")
def list_tokens(storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """List the tokens, without their secrets."""
    from sweeper import api
    from sweeper.cli.tables import tokens

    found = api.tokens(storage)
    if as_json:
        print_json([{"name": one.name, "role": one.role, "created": one.created} for one in found])
    elif found:
        console().print(tokens(found))
    else:
        typer.echo("no token yet: sweeper token create NAME makes one")


@token.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Remove a token; whoever has signed in with it is signed out."""
    from sweeper import api

    api.revoke_token(name, storage)
    typer.echo(f"revoked {name}")
