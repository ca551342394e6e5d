"""What has to be true of studies whose workers were killed, frozen and cut off."""

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import sweeper
from benchmarks.shared.campaign import Claim, Key, Watch
from benchmarks.shared.faults import Hit
from sweeper.api import Study
from sweeper.store.confirmations import last_confirmation
from sweeper.store.database import Store, open_reader
from sweeper.store.records import read_results
from sweeper.store.studies import StudyRecord, get_study
from sweeper.store.tickets import LEASE_SECONDS, RENEW_SECONDS, SEARCH, ticket_states
from sweeper.trainers.client import shared_zygote

# A claim that was seen may have begun, or gone on, so long without being seen.
UNSEEN_SECONDS: Final = 3.0
# A worker frozen for longer may lose its leases.
FROZEN_SECONDS: Final = LEASE_SECONDS - RENEW_SECONDS
ALARMS: Final = ("error: unexpected ", "Exception in thread", "Exception ignored")


@dataclass
class Checks:
    """What was checked, with the problems that were found."""

    problems: dict[str, list[str]] = field(default_factory=dict)

    def note(self, check: str, *problems: str) -> None:
        """Add problems to a check, none if it passes."""
        self.problems.setdefault(check, []).extend(problems)

    @property
    def passed(self) -> bool:
        """Whether there is no problem."""
        return not any(self.problems.values())

    def lines(self) -> list[str]:
        """Return a line for each check, and one for each problem."""
        return [
            line
            for check, problems in self.problems.items()
            for line in (
                f"{'FAIL' if problems else 'PASS'}  {check}",
                *(f"      {problem}" for problem in problems[:20]),
            )
        ]


BUDGET: Final = "every budget exact: numbers, tickets and states; one ε = 0, the first trial"
CONFIRMED: Final = "every confirmation complete, each of its training runs once"
EPOCHS: Final = "every report of a finished trial stored once"
FAILED: Final = "no trial failed by itself"
LOST: Final = "no trial lost whose process was not killed"


def check_study(checks: Checks, name: str, url: str, trials: int, confirmed: bool) -> Counter[str]:
    """Check the budget and the reports of a study; return how many trials ended how."""
    with closing(Study(name, url)) as study:
        frame, epochs = study.frame(), study.epochs()
        evidence = study.evidence()
    problems = list[str]()
    if frame["number"].tolist() != list(range(trials)):
        problems.append(f"{name}: the numbers are {frame['number'].tolist()}")
    if sorted(frame["ticket"]) != list(range(trials)):
        problems.append(f"{name}: the tickets are {sorted(frame['ticket'])}")
    running = frame[~frame["state"].isin(["complete", "pruned", "failed"])]
    problems += [f"{name}: trial {number} has not ended" for number in running["number"]]
    first = frame[frame["ticket"] == 0]
    if first[["number", "epsilon"]].to_numpy().tolist() != [[0, 0.0]]:
        problems.append(f"{name}: the trials of ticket 0 are {first.to_dict('records')}")
    with closing(open_reader(url)) as store:
        record = get_study(store, name)
        phases = [SEARCH] if evidence is None else [SEARCH, f"confirm-{evidence.number}"]
        problems += [
            f"{name}: ticket {ticket.phase} {ticket.number} is open"
            for phase in phases
            for ticket in ticket_states(store, record, phase)
            if not ticket.closed
        ]
    checks.note(BUDGET, *problems)
    # A trial whose processes were killed five times is lost, and without ε = 0 there is nothing to
    # confirm.
    if confirmed and first["state"].tolist() != ["failed"]:
        done = [] if evidence is None else [(r.candidate, r.number) for r in evidence.replicates]
        if evidence is None or not evidence.complete or len(set(done)) != len(done):
            checks.note(CONFIRMED, f"{name}: the training runs are {done}")
    checks.note(CONFIRMED)
    trained = frame[(frame["state"] != "failed") & frame["copied_from"].isna()]
    wanted = dict(zip(trained["number"].tolist(), trained["epochs"].tolist(), strict=True))
    stored = epochs.groupby("number")["epoch"].apply(list).to_dict()
    checks.note(
        EPOCHS,
        *(
            f"{name}: trial {number} has {count} epochs, and stored are {stored.get(number)}"
            for number, count in wanted.items()
            if stored.get(number) != [*range(1, count + 1)]
        ),
    )
    return Counter(
        frame["state"] + frame["cause"].map(lambda cause: f" ({cause})" if cause else "")
    )


def check_failures(
    checks: Checks, name: str, url: str, watch: Watch, hits: Sequence[Hit]
) -> Counter[str]:
    """Check that failed trials are lost ones, and that each of their processes was hit.

    Returns how many attempts counted, by whether their processes were hit.
    """
    with closing(open_reader(url)) as store:
        record = get_study(store, name)
        failures = [
            (phase, number, result.cause, result.failure)
            for phase in _phases(store, record)
            for number, result in read_results(store, record, phase=phase).items()
            if result.cause
        ]
    checks.note(FAILED)
    checks.note(LOST)
    for phase, number, cause, failure in failures:
        if cause != "lost":
            checks.note(FAILED, f"{name}: {phase} {number} {cause}: {failure[-300:]}")
            continue
        claims = watch.claims.get(Key(record.id, phase, number), {})
        unhurt = [claim for claim in counted(claims) if not was_hit(claim, hits)]
        checks.note(
            LOST,
            *(
                f"{name}: {phase} {number}, attempt {c.attempt} of worker {c.worker}"
                for c in unhurt
            ),
        )
    attempts = Counter[str]()
    for key, claims in watch.claims.items():
        if key.study == record.id:
            for claim in counted(claims):
                attempts["hit" if was_hit(claim, hits) else "not hit"] += 1
    return attempts


def _phases(store: Store, record: StudyRecord) -> list[str]:
    confirmation = last_confirmation(store, record)
    return [SEARCH] if confirmation is None else [SEARCH, confirmation.phase]


def counted(claims: dict[int, Claim]) -> list[Claim]:
    """Return the claims of a ticket that a later one counts as an attempt of which nothing came."""
    ordered = [claims[number] for number in sorted(claims)]
    return [claim for claim, after in pairwise(ordered) if after.attempt > claim.attempt]


def was_hit(claim: Claim, hits: Sequence[Hit]) -> bool:
    """Return whether a process of the claim's worker was killed, or frozen for long, meanwhile."""
    return any(
        claim.worker in hit.workers
        and hit.at <= claim.last + UNSEEN_SECONDS
        and hit.at + hit.seconds >= claim.first - UNSEEN_SECONDS
        and (hit.kind == "kill" or hit.seconds >= FROZEN_SECONDS)
        for hit in hits
    )


def check_replays(checks: Checks, studies: Sequence[str], url: str, count: int, seed: int) -> None:
    """Train finished trials again, drawn from all studies, and compare them to the last bit."""
    finished = list[tuple[str, int]]()
    for name in studies:
        with closing(Study(name, url)) as study:
            frame = study.frame()
            finished += [(name, int(n)) for n in frame[frame["state"] == "complete"]["number"]]
    drawn = random.Random(seed).sample(finished, min(count, len(finished)))
    check = f"{len(drawn)} randomly chosen trials replay to the last bit"
    checks.note(check, *([] if drawn else ["no trial has finished"]))
    with shared_zygote():
        for name, number in drawn:
            replay = sweeper.replay(name, number, storage=url)
            if not replay.same:
                checks.note(check, f"{name} {number}: {list(map(str, replay.differences[:3]))}")


def check_logs(checks: Checks, folder: Path) -> None:
    """Check that no launch and no worker met an error that it does not know."""
    check = "no unexpected error of a launch or a worker"
    checks.note(check)
    for log in sorted(folder.rglob("*.log")):
        text = log.read_text(errors="replace")
        for alarm in ALARMS:
            if alarm in text:
                at = text.index(alarm)
                checks.note(check, f"{log}: {text[at : at + 100].splitlines()[0]}")
                break


def check_files(checks: Checks, folder: Path, names: Sequence[str]) -> None:
    """Check that the last launch of each study has written its report and its export."""
    check = "report.html and best.json written by the final launch"
    checks.note(check)
    for name in names:
        for file in ("report.html", "best.json"):
            path = folder / name / file
            if not path.is_file() or not path.stat().st_size:
                checks.note(check, f"{path} is not there")
