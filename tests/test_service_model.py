"""The JSON API against a model of it: random sequences of what people and workers do."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from sweeper import SweeperError, api
from sweeper.service import study_reader
from sweeper.worker.worker import MAX_SAME_FAILURES
from tests.support.serving import Site, serve, stopped_after
from tests.support.soak import repeats
from tests.support.studies import copy_task

NAMES: Final = ("one", "two")
ROLES: Final = ("viewer", "operator")

Ticket = Literal["open", "complete", "failed"]


@dataclass
class Confirmation:
    """The last confirmation of a study: for how many ended trials, and what came of it."""

    ended: int
    open: bool = True
    failed: bool = False


@dataclass
class Model:
    """A study as it should be. Its trials fail while the data that they need is missing."""

    budget: int
    confirms: bool
    state: str = "running"
    tickets: list[Ticket] = field(default_factory=list)
    last: Confirmation | None = None

    @property
    def searched(self) -> list[Ticket]:
        return self.tickets[: self.budget]

    @property
    def ended(self) -> int:
        return self.budget - self.searched.count("open")

    @property
    def confirmation(self) -> Confirmation | None:
        """The confirmation of the search as it stands."""
        return self.last if self.last is not None and self.last.ended == self.ended else None

    @property
    def finished(self) -> bool:
        if self.ended < self.budget:
            return False
        return not self.confirms or (self.confirmation is not None and not self.confirmation.open)

    @property
    def shown(self) -> str:
        if self.finished:
            return "finished" if "complete" in self.searched else "failed"
        return "unfinished" if self.state == "running" else self.state

    def lay_out(self) -> None:
        """Add the tickets that a budget needs."""
        self.tickets += ["open"] * (self.budget - len(self.tickets))

    def confirm_if_due(self) -> None:
        """Lay the confirmation out that is due."""
        if self.confirms and self.ended == self.budget and self.confirmation is None:
            self.last = Confirmation(self.ended, open=self.searched[0] == "complete")

    def train(self, *, broken: bool) -> None:
        """Run one trial, or the confirmation."""
        if self.state != "running":
            return
        if self.ended < self.budget:
            self.tickets[self.searched.index("open")] = "failed" if broken else "complete"
            if "complete" not in self.tickets and self.tickets.count("failed") >= MAX_SAME_FAILURES:
                self.state = "failed"
        else:
            self.confirm_if_due()
            if self.confirms and self.confirmation is not None and self.confirmation.open:
                self.confirmation.open, self.confirmation.failed = False, broken
        self.confirm_if_due()

    def retry(self) -> bool:
        """Open what failed again; return whether there was something."""
        failed = "failed" in self.searched
        again = self.last is not None and self.last.failed
        for number, ticket in enumerate(self.searched):
            if ticket == "failed":
                self.tickets[number] = "open"
        if self.last is not None and again:
            self.last.open, self.last.failed = True, False
        if self.last is not None and failed:
            self.last.ended = -1
        if failed or again:
            self.state = "running"
        return failed or again


class Service(RuleBasedStateMachine):
    """A service that wants tokens, with two names for studies."""

    tokens: Bundle[tuple[str, str]] = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.opened = stopped_after()
        self.opened.__enter__()
        self.place = tempfile.TemporaryDirectory(prefix="sweeper-")
        self.folder = Path(self.place.name)
        copy_task(self.folder, "fixable.py")
        self.data = self.folder / "data"
        self.data.touch()
        self.storage = f"sqlite:///{self.folder}/sweeper.db"
        self.secret = api.create_token("first", "operator", self.storage)
        site = serve(self.storage, sign_in=True, folders=(self.folder,))
        self.site = Site(site.address, self.secret)
        self.models: dict[str, Model] = {}
        self.made = 0

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)
        self.place.cleanup()

    def post(self, name: str, action: str) -> Any:
        return self.site.ask(f"/v1/studies/{name}/{action}", "POST")

    # ---- studies -------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), trials=st.integers(2, 7), confirms=st.booleans())
    def launch(self, name: str, trials: int, confirms: bool) -> None:
        spec = {
            "study": {"name": name},
            "task": {"use": "fixable.py:needs_a_file", "options": {"file": str(self.data)}},
            "budget": {"trials": trials},
            "pruner": {"name": "none"},
            "confirm": {"enabled": confirms, "replicates": 2},
        }
        answer = self.site.ask("/v1/studies", "POST", {"spec": spec})
        assert answer.status == 201, answer.body
        model = self.models.setdefault(name, Model(trials, confirms))
        model.budget, model.confirms, model.state = trials, confirms, "running"
        model.lay_out()

    @rule(name=st.sampled_from(NAMES), action=st.sampled_from(["pause", "resume", "stop"]))
    def control(self, name: str, action: str) -> None:
        answer, model = self.post(name, action), self.models.get(name)
        if model is None:
            assert answer.status == 404
        elif model.finished:
            assert answer.status == 409
        else:
            assert answer.status == 200
            states = {"pause": "paused", "resume": "running", "stop": "stopped"}
            model.state = states[action]

    @rule(name=st.sampled_from(NAMES))
    def retry(self, name: str) -> None:
        answer, model = self.post(name, "retry"), self.models.get(name)
        if model is None:
            assert answer.status == 404
        else:
            assert answer.status == (200 if model.retry() else 409)

    @rule(name=st.sampled_from(NAMES))
    def confirm(self, name: str) -> None:
        answer, model = self.post(name, "confirm"), self.models.get(name)
        if model is None:
            assert answer.status == 404
        elif model.ended < model.budget or model.searched[0] != "complete":
            assert answer.status == 409
        elif model.searched.count("complete") > 1 or answer.status == 200:
            assert answer.status == 200
            model.confirms, model.state = True, "running"

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        answer = self.site.ask(f"/v1/studies/{name}", "DELETE")
        assert answer.status == (204 if self.models.pop(name, None) else 404)

    # ---- workers -------------------------------------------------------------------------

    @rule()
    def lose_data(self) -> None:
        self.data.unlink(missing_ok=True)

    @rule()
    def supply_data(self) -> None:
        self.data.touch()

    @rule(name=st.sampled_from(NAMES), times=st.integers(1, 4))
    def work(self, name: str, times: int) -> None:
        """Run a worker that leaves when there is nothing to do."""
        model = self.models.get(name)
        for _ in range(times if model else 0):
            assert model is not None
            left = model.budget - model.ended
            options = api.WorkerOptions(
                name, self.folder, idle=0.0, trials=1 if left else None, slots=0
            )
            api.run_worker(options, self.storage)
            model.train(broken=not self.data.exists())

    # ---- tokens --------------------------------------------------------------------------

    @rule(target=tokens, role=st.sampled_from(ROLES))
    def create_token(self, role: Any) -> tuple[str, str]:
        self.made += 1
        name = f"{role}-{self.made}"
        return name, api.create_token(name, role, self.storage)

    @rule(token=tokens, name=st.sampled_from(NAMES))
    def use(self, token: tuple[str, str], name: str) -> None:
        site = Site(self.site.address, token[1])
        reads = site.ask(f"/v1/studies/{name}").status
        assert reads == (200 if name in self.models else 404)
        assert site.ask("/v1/session").json == {
            "name": token[0],
            "role": token[0].partition("-")[0],
        }
        if token[0].startswith("viewer"):
            assert site.ask(f"/v1/studies/{name}", "DELETE").status == 403

    @rule(token=consumes(tokens), name=st.sampled_from(NAMES))
    def revoke(self, token: tuple[str, str], name: str) -> None:
        api.revoke_token(token[0], self.storage)
        site = Site(self.site.address, token[1])
        for method in ("GET", "DELETE"):
            assert site.ask(f"/v1/studies/{name}", method).status in (401, 429)
        with pytest.raises(SweeperError, match="no token named"):
            api.revoke_token(token[0], self.storage)

    # ---- what holds at any time ----------------------------------------------------------

    @invariant()
    def studies_are_as_the_model_says(self) -> None:
        listed = self.site.ask("/v1/studies").json["studies"]
        found = {
            one["name"]: (one["state"], one["trials"], one["complete"], one["failed"])
            for one in listed
        }
        assert found == {
            name: (
                model.shown,
                model.budget,
                model.searched.count("complete"),
                model.searched.count("failed"),
            )
            for name, model in self.models.items()
        }

    @invariant()
    def nobody_comes_in_without_a_token(self) -> None:
        site = Site(self.site.address)
        assert site.ask("/v1/studies").status == 401
        assert site.ask("/v1/studies/one", "DELETE").status == 401


@pytest.mark.slow
def test_random_requests_match_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The service keeps numbers for a moment; the model does not.
    for name, value in (("NUMBERS_SECONDS", 0.0), ("NUMBERS_SHARE", 1e9)):
        monkeypatch.setattr(study_reader, name, value)
    checks = settings(
        max_examples=repeats(5, 30),
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Service, settings=checks)
