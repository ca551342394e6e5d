"""The commands of the service: `serve`, and `token` for the access tokens."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeper.cli.options import (
    DEFAULT_STORAGE,
    Json,
    Storage,
    console,
    echo,
    path_option,
    print_json,
)

token = typer.Typer(help="Create, list and revoke the tokens for signing in to the service.")
Role = Annotated[
    Literal["viewer", "operator"],
    typer.Option(
        help="A viewer reads; an operator can also launch, pause, stop and delete studies."
    ),
]


def serve(
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free port.")] = 8080,
    sign_in: Annotated[
        bool | None,
        typer.Option(
            "--sign-in/--no-sign-in",
            show_default=False,
            help="Require a token; by default yes, except on loopback.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Additional allowed host name, such as a proxy's; repeatable."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address of a proxy whose X-Forwarded headers are used; repeatable."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="URL path below which a proxy serves the service.")
    ] = "",
    dashboard_host: Annotated[
        str | None,
        typer.Option(help="Host name for optuna-dashboard; required with --root-path."),
    ] = None,
    dashboard_writes: Annotated[
        bool,
        typer.Option(
            "--dashboard-writes", help="Let operators change studies in optuna-dashboard."
        ),
    ] = False,
    tasks: Annotated[
        list[Path] | None,
        path_option(
            "--tasks", help="Folder of task files that studies sent over HTTP may use; repeatable."
        ),
    ] = None,
    page: Annotated[
        list[Path] | None,
        path_option("--page", help="TOML file of a page to add to the built-in pages; repeatable."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the start page in a browser.")] = True,
) -> None:
    """Serve the web pages, the JSON API and optuna-dashboard, by default on loopback only."""
    import gc
    import webbrowser

    from sweeper import api, service

    api.check_not_newer(storage)
    extra_hosts = [*(allow_host or ()), *([] if dashboard_host is None else [dashboard_host])]
    requires_sign_in = not service.is_loopback(host) if sign_in is None else sign_in
    settings = service.Settings(
        storage=storage,
        hosts=service.host_names(host, extra_hosts),
        sign_in=requires_sign_in,
        root_path=service.path_prefix(root_path),
        dashboard_host=None if dashboard_host is None else dashboard_host.lower(),
        dashboard_writes=dashboard_writes,
        folders=service.task_folders(tasks or ()),
        pages=service.pages_of(page or ()),
    )

    application = service.create_app(settings)
    trusted = service.trusted_proxies(trusted_proxy or ())
    server = service.HttpServer(application, port, host, trusted=trusted, on_stop=application.stop)
    echo(f"sweeper: {server.address} (Ctrl-C to stop)")
    if requires_sign_in:
        echo("sign-in is on; to create a token: sweeper token create NAME")
    elif not service.is_loopback(host):
        echo(
            f"warning: sign-in is off; anyone who can reach {host} can launch and delete studies",
            err=True,
        )
    if browser:
        webbrowser.open(server.address)
    # Exclude the objects loaded so far from garbage collection: scanning them delays responses.
    gc.collect()
    gc.freeze()
    server.serve_on()


@token.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name of the user or program.")],
    role: Role = "viewer",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Create a token and print it once; only a digest is stored."""
    from sweeper import api

    echo(api.create_token(name, role, storage))


@token.command("list")
def list_tokens(storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """List the tokens, without their secrets."""
    from sweeper import api
    from sweeper.cli.tables import tokens

    accounts = api.tokens(storage)
    if as_json:
        print_json([{"name": a.name, "role": a.role, "created": a.created} for a in accounts])
    elif accounts:
        console().print(tokens(accounts))
    else:
        echo("no tokens yet; to create one: sweeper token create NAME")


@token.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the user or program.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Revoke a token and end all sessions opened with it."""
    from sweeper import api

    api.revoke_token(name, storage)
    echo(f"revoked {name}")
