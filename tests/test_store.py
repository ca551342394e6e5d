"""The database contract: one class of tests, an empty subclass a backend."""

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import create_engine, inspect, text, update

from sweeper.errors import DatabaseFailed, SweeperError
from sweeper.store import database
from sweeper.store.confirmations import Confirmation, add_confirmation, last_confirmation
from sweeper.store.database import Store, open_reader, open_writer
from sweeper.store.outputs import Output, read_outputs, write_outputs
from sweeper.store.records import (
    Result,
    drop_result,
    read_epochs,
    read_examples,
    read_replicates,
    read_result,
    read_results,
    write_epoch,
    write_epochs,
    write_replicate,
    write_result,
    write_result_if_equal,
)
from sweeper.store.schema import VERSION_TABLE, metadata, now, tickets
from sweeper.store.studies import (
    NewStudy,
    StudyRecord,
    add_study,
    all_studies,
    delete_study,
    get_study,
)
from sweeper.store.tickets import (
    LEASE_SECONDS,
    SEARCH,
    ClaimTerms,
    LeaseLost,
    Ticket,
    TicketCounts,
    abandon_ticket,
    add_tickets,
    all_closed,
    claim,
    close_ticket,
    count_tickets,
    held_tickets,
    leaseholders,
    planned_points,
    release_ticket,
    renew,
    revoke_leases,
    set_share,
    ticket_states,
)
from sweeper.store.trials import (
    TICKET,
    TrialCounts,
    count_trials,
    end_trial,
    insert_trial,
    read_trials,
    trial_numbers,
)
from sweeper.store.urls import masked_url, parse_url
from sweeper.store.usage import HourLimits, SlotUse, hours_used
from sweeper.study.trials import create_optuna_study
from tests.support.databases import differences_from_schema
from tests.support.processes import start_module
from tests.support.store_rows import EPOCH


def new_study(store: Store, points: int = 3, name: str = "s") -> StudyRecord:
    study = add_study(store, NewStudy(name, "{}", "h", "/", {}))
    add_tickets(store, study, [{"epsilon": i / 10} for i in range(points)])
    return study


def take(store: Store, study: StudyRecord, worker: str = "w") -> Ticket:
    ticket = claim(store, study.id, worker, below=100)
    assert ticket is not None
    return ticket


def let_expire(store: Store, ticket: Ticket, seconds: float = 60) -> None:
    """Put a lease into the past, as if its worker had been silent for long enough."""
    with store.engine.begin() as connection:
        lease = tickets.c.lease_until - seconds
        connection.execute(update(tickets).where(ticket.row()).values(lease_until=lease))


def claimed_before(store: Store, ticket: Ticket, seconds: float) -> None:
    """Put the beginning of a claim into the past."""
    with store.engine.begin() as connection:
        since = tickets.c.since - seconds
        connection.execute(update(tickets).where(ticket.row()).values(since=since))


def a_confirmation(study: StudyRecord, number: int = 1) -> Confirmation:
    settings = {"replicates": 3, "constraint": None, "resplit": False}
    return Confirmation(study.id, number, 12, settings, [{"role": "pick"}], "", created=0.0)


class DatabaseContract:
    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_writer(url)
        yield store
        store.close()

    def test_migrations_match_the_schema(self, store: Store) -> None:
        assert differences_from_schema(store) == []

    def test_optunas_tables_are_beside_ours(self, store: Store) -> None:
        names = inspect(store.engine).get_table_names()
        assert {"studies", "trials", "alembic_version", "sweeper_studies"} <= set(names)

    def test_a_newer_schema_is_refused(self, store: Store, url: str) -> None:
        with store.engine.begin() as connection:
            connection.execute(text(f"update {VERSION_TABLE} set version_num = '9999'"))
        with pytest.raises(SweeperError, match="newer sweeper"):
            open_writer(url)

    def test_tickets_are_claimed_in_order_and_once(self, store: Store) -> None:
        study = new_study(store)
        taken = [claim(store, study.id, f"w{i}", below=100) for i in range(4)]
        assert [ticket.number if ticket else None for ticket in taken] == [0, 1, 2, None]
        assert taken[1] is not None
        assert taken[1].point == {"epsilon": 0.1}

    def test_tickets_beyond_the_budget_are_not_claimed(self, store: Store) -> None:
        study = new_study(store)
        assert claim(store, study.id, "w", below=0) is None
        assert all_closed(store, study, below=0)
        assert not all_closed(store, study, below=1)

    def test_expired_lease_is_reassigned_and_late_writes_fail(self, store: Store) -> None:
        study = new_study(store, points=1)
        late = take(store, study, "late")
        write_epoch(store, late, EPOCH)
        let_expire(store, late)
        heir = take(store, study, "heir")
        assert (heir.number, heir.attempts) == (0, 2)
        with pytest.raises(LeaseLost):
            write_epoch(store, late, EPOCH)
        with pytest.raises(LeaseLost):
            write_result(store, late, Result())
        with pytest.raises(LeaseLost):
            drop_result(store, late)
        close_ticket(store, late)
        assert not ticket_states(store, study)[0].closed
        write_result(store, heir, Result(seconds=1.0))
        drop_result(store, heir)
        assert read_result(store, study, heir.number) is None
        assert [row["epoch"] for row in read_epochs(store, study)] == [1]

    def test_epoch_of_earlier_attempt_is_replaced(self, store: Store) -> None:
        study = new_study(store, points=1)
        first = take(store, study)
        write_epoch(store, first, EPOCH)
        release_ticket(store, first)
        assert write_epochs(store, [(first, EPOCH)]) == [first]
        second = take(store, study)
        again = replace(EPOCH, nll=0.5)
        assert write_epochs(store, [(second, again)]) == []
        assert [row["nll"] for row in read_epochs(store, study)] == [0.5]
        assert [row["mean_epsilon"] for row in read_epochs(store, study)] == [0.05]

    def test_pack_epochs_are_written_together_except_lost_tickets(self, store: Store) -> None:
        study = new_study(store, points=3)
        lost, *held = (take(store, study) for _ in range(3))
        release_ticket(store, lost)
        rows = [(ticket, EPOCH) for ticket in (held[0], lost, held[1])]
        output = Output(1, 5, "hello")
        for _ in range(2):  # a second time, as if the answer to the first was lost
            assert write_epochs(store, rows, [(held[0], output), (lost, output)]) == [lost]
        assert [row["number"] for row in read_epochs(store, study)] == [1, 2]
        assert [bool(read_outputs(store, study, number)) for number in range(3)] == [
            True,
            True,
            False,
        ]

    def test_a_worker_that_claims_its_own_expired_ticket_again_holds_it_once(
        self, store: Store
    ) -> None:
        study = new_study(store, points=1)
        first = take(store, study)
        let_expire(store, first)
        second = take(store, study)
        with pytest.raises(LeaseLost):
            write_epoch(store, first, EPOCH)
        write_epoch(store, second, EPOCH)

    def test_renewal_keeps_a_lease(self, store: Store) -> None:
        study = new_study(store, points=1)
        held = take(store, study)
        let_expire(store, held)
        renew(store, [held])
        assert claim(store, study.id, "other", below=100) is None

    def test_only_given_tickets_are_renewed(self, store: Store) -> None:
        study = new_study(store, points=2)
        named, other = take(store, study), take(store, study)
        let_expire(store, named)
        let_expire(store, other)
        renew(store, [named])
        assert take(store, study).number == other.number

    def test_a_lease_is_for_thirty_seconds_of_the_databases_clock(self, store: Store) -> None:
        study = new_study(store, points=1)
        take(store, study)
        left = tickets.c.lease_until - now()
        with store.engine.begin() as connection:
            seconds = connection.execute(tickets.select().with_only_columns(left)).scalar_one()
        assert 20 < seconds <= 30

    def test_released_ticket_is_free_and_attempt_does_not_count(self, store: Store) -> None:
        study = new_study(store, points=1)
        first = take(store, study)
        release_ticket(store, first)
        second = take(store, study)
        assert (second.claims, second.attempts) == (2, 1)
        with pytest.raises(LeaseLost):
            write_epoch(store, first, EPOCH)

    def test_leases_of_dead_workers_are_revoked(self, store: Store) -> None:
        study = new_study(store)
        take(store, study, "dead")
        take(store, study, "alive")
        assert revoke_leases(store, ["dead"]) == 1
        assert [t.leased for t in ticket_states(store, study)] == [False, True, False]

    def test_ended_claims_add_up_their_hours(self, store: Store) -> None:
        study = new_study(store, points=1)
        terms = ClaimTerms(use=SlotUse(cores=4.0, gpus=0.5))
        for end in (release_ticket, abandon_ticket, close_ticket):
            ticket = claim(store, study.id, "w", below=1, terms=terms)
            assert ticket is not None
            claimed_before(store, ticket, 900)
            end(store, ticket, 10)
        used = hours_used(store, study.id, SEARCH)
        assert used.core_hours == pytest.approx(3.0, rel=0.05)
        assert used.gpu_hours == pytest.approx(0.375, rel=0.05)

    def test_running_claims_count_and_dead_ones_count_until_their_lease_ends(
        self, store: Store
    ) -> None:
        study = new_study(store, points=2)
        ticket = take(store, study, "dead")
        claimed_before(store, ticket, 3600)
        assert hours_used(store, study.id, SEARCH).core_hours == pytest.approx(1.0, rel=0.01)
        let_expire(store, ticket, 1800)
        half = 0.5 + LEASE_SECONDS / 3600
        assert hours_used(store, study.id, SEARCH).core_hours == pytest.approx(half, rel=0.01)
        assert take(store, study, "heir").number == ticket.number
        assert hours_used(store, study.id, SEARCH).core_hours == pytest.approx(half, rel=0.01)
        killed = take(store, study, "killed")
        claimed_before(store, killed, 3600)
        revoke_leases(store, ["killed"])
        total = hours_used(store, study.id, SEARCH).core_hours
        assert total == pytest.approx(1.0 + half, rel=0.01)

    def test_no_ticket_is_claimed_after_the_hours_are_used(self, store: Store) -> None:
        study = new_study(store, points=3)
        first = take(store, study)
        claimed_before(store, first, 3600)
        for limits, claimed in (
            (HourLimits(core_hours=0.9), False),
            (HourLimits(core_hours=9.0, gpu_hours=9.0), True),
        ):
            terms = ClaimTerms(limits=limits)
            ticket = claim(store, study.id, "w", below=3, terms=terms)
            assert (ticket is not None) == claimed
        terms = ClaimTerms(use=SlotUse(1.0, 2.0), limits=HourLimits(gpu_hours=1.5))
        other = claim(store, study.id, "w", below=3, terms=terms)
        assert other is not None
        claimed_before(store, other, 3600)
        release_ticket(store, other)
        assert claim(store, study.id, "w", below=3, terms=terms) is None

    def test_trials_of_a_pack_share_their_slot(self, store: Store) -> None:
        study = new_study(store, points=2)
        both = [take(store, study), take(store, study)]
        set_share(store, both, 0.5)
        for ticket in both:
            claimed_before(store, ticket, 3600)
        close_ticket(store, both[0])
        set_share(store, both[1:], 1.0)
        claimed_before(store, both[1], 3600)
        close_ticket(store, both[1])
        assert hours_used(store, study.id, SEARCH).core_hours == pytest.approx(2.0, rel=0.01)

    def test_peak_memory_is_that_of_all_attempts(self, store: Store) -> None:
        study = new_study(store, points=1)
        for peak in (5, 2**40, None, 7):
            release_ticket(store, take(store, study), peak)
        with store.engine.begin() as connection:
            assert (
                connection.execute(
                    tickets.select().with_only_columns(tickets.c.peak_memory)
                ).scalar_one()
                == 2**40
            )

    def test_a_closed_ticket_stays_closed(self, store: Store) -> None:
        study = new_study(store, points=1)
        ticket = take(store, study)
        close_ticket(store, ticket)
        renew(store, [ticket])
        assert claim(store, study.id, "w", below=100) is None
        assert all_closed(store, study, below=100)
        with pytest.raises(LeaseLost):
            write_epoch(store, ticket, EPOCH)

    def test_tickets_are_added_once(self, store: Store) -> None:
        study = new_study(store)
        assert add_tickets(store, study, [None] * 3) == 0
        assert add_tickets(store, study, [None] * 5) == 2
        assert [t.number for t in ticket_states(store, study)] == [0, 1, 2, 3, 4]
        assert [p["epsilon"] for p in planned_points(store, study).values()] == [0.0, 0.1, 0.2]

    def test_tickets_are_created_in_batches(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sweeper.store.tickets.BATCH", 4)
        study = new_study(store, points=0)
        points = [{"epsilon": 0.1}, *[None] * 16]  # one batch with a point, three without, a rest
        assert add_tickets(store, study, points[:11]) == 11
        take(store, study)
        assert add_tickets(store, study, points[11:], first=11) == 6
        states = ticket_states(store, study)
        assert [t.number for t in states] == list(range(17))
        assert [t.leased for t in states] == [True] + [False] * 16
        assert planned_points(store, study) == {0: {"epsilon": 0.1}}
        counts = count_tickets(store, study, below=100)
        numbers = counts.planned, counts.closed, counts.leased, counts.retried
        assert numbers == (17, 0, 1, 0)
        assert [take(store, study).claims for _ in range(16)] == [1] * 16

    def test_result_round_trip(self, store: Store) -> None:
        study = new_study(store, points=1)
        ticket = take(store, study)
        nan = float("nan")
        given = Result(
            scores={"nll": 0.25, "ece": nan},
            extra={"size": 3.0, "worst": float("inf")},
            environment={"cpu": "naïve ε '\"; --"},
            classes=10,
            epochs=4,
            seconds=0.125,
            copied_from=0,
            failure="line 1\nline 2: 50%",
        )
        write_result(store, ticket, given)
        found = read_result(store, study, 0)
        assert found is not None
        assert found.scores == {"nll": 0.25, "ece": None}
        assert found.extra == {"size": 3.0, "worst": None}
        assert replace(found, scores={}, extra={}) == replace(given, scores={}, extra={})
        assert read_results(store, study) == {0: found}
        assert read_result(store, study, 1) is None

    def test_output_is_stored_per_attempt(self, store: Store) -> None:
        study = new_study(store, points=1)
        ticket = take(store, study)
        long = "ε\n" * 100_000  # more than MySQL's own text takes
        outputs = [Output(1, 3, "one"), Output(1, 300_000, long), Output(2, 2, "a\0\udce9")]
        for output in outputs:
            write_outputs(store, [(ticket, output)])
        stored = [Output(1, 300_000, long), Output(2, 2, "a\ufffd\\udce9")]
        assert read_outputs(store, study, 0) == stored
        gone = replace(ticket, number=7)
        write_outputs(store, [(gone, outputs[0]), (ticket, Output(2, 9, "more"))])
        assert read_outputs(store, study, 7) == []
        assert read_outputs(store, study, 0)[1].text == "more"

    def test_later_claim_replaces_the_result(self, store: Store) -> None:
        study = new_study(store, points=1)
        first = take(store, study)
        write_result(store, first, Result(scores={"nll": 0.5}))
        release_ticket(store, first)
        write_result(store, take(store, study), Result(scores={"nll": 0.25}))
        assert read_results(store, study) == {0: Result(scores={"nll": 0.25})}

    def test_of_different_environments_the_first_is_stored(self, store: Store, url: str) -> None:
        study = new_study(store, points=4)
        held = [take(store, study) for _ in range(4)]
        write_result(store, held[3], Result(environment={"labels": "failed"}, cause="exited"))
        stores, barrier = [open_writer(url) for _ in range(3)], threading.Barrier(3)

        def write(n: int) -> tuple[str, str] | None:
            given = {"labels": f"of {n}"}
            barrier.wait()
            result = Result(environment=given)
            return write_result_if_equal(stores[n], study, held[n], result, given)

        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(write, range(3)))
        for opened in stores:
            opened.close()
        [first] = [n for n, different in enumerate(found) if different is None]
        assert found.count(("labels", f"of {first}")) == 2
        assert read_results(store, study).keys() == {first, 3}

    def test_confirmation_is_created_once_with_its_own_tickets(self, store: Store) -> None:
        study = new_study(store, points=1)
        points = [{"candidate": i, "point": {"epsilon": 0.1}} for i in range(3)]
        first = a_confirmation(study)
        assert last_confirmation(store, study) is None
        assert add_confirmation(store, study, first, points)
        assert not add_confirmation(store, study, first, points[:1])
        found = last_confirmation(store, study)
        assert found is not None
        assert replace(found, created=0.0) == first
        assert found.created > 1e9
        assert planned_points(store, study, found.phase) == dict(enumerate(points))
        assert planned_points(store, study).keys() == {0}
        ticket = claim(store, study.id, "w", below=found.training_runs, phase=found.phase)
        assert ticket is not None
        assert (ticket.number, ticket.point) == (0, points[0])
        assert {t.phase for t in held_tickets(store, study)} == {"confirm-1"}
        assert leaseholders(store, study) == {"w"}

    def test_later_confirmation_closes_open_tickets_of_earlier_ones(self, store: Store) -> None:
        study = new_study(store, points=1)
        add_confirmation(store, study, a_confirmation(study), [{}] * 3)
        assert add_confirmation(store, study, a_confirmation(study, number=2), [{}] * 2)
        assert all_closed(store, study, below=3, phase="confirm-1")
        assert not all_closed(store, study, below=2, phase="confirm-2")
        assert not all_closed(store, study, below=1)

    def test_concurrent_workers_create_one_confirmation(self, url: str) -> None:
        store = open_writer(url)
        study = new_study(store, points=1)
        barrier = threading.Barrier(4)

        def lay(_: int) -> bool:
            own = open_writer(url)
            barrier.wait()
            done = add_confirmation(own, study, a_confirmation(study), [{}] * 3)
            own.close()
            return done

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(lay, range(4))) == [False, False, False, True]
        assert len(planned_points(store, study, "confirm-1")) == 3
        store.close()

    def test_replicate_is_stored_once_by_the_lease_holder(self, store: Store) -> None:
        study = new_study(store, points=1)
        add_confirmation(store, study, a_confirmation(study), [{}] * 2)
        ticket = claim(store, study.id, "w", below=2, phase="confirm-1")
        assert ticket is not None
        scores = {"test": {"nll": 0.25, "ece": float("nan")}}
        examples = bytes(range(256)) * 1000
        for nll in (0.5, 0.25):  # an attempt whose answer was lost is made again
            scores["test"]["nll"] = nll
            result = Result(scores={"nll": 1.0}, splits="train,test", cause="", epochs=3)
            write_replicate(store, ticket, result, scores, {"test": 240}, examples)
        assert read_results(store, study, "confirm-1") == {0: result}
        assert read_results(store, study) == {}
        found = read_replicates(store, study, "confirm-1")
        assert found.keys() == {0}
        assert found[0]["scores"] == {"test": {"nll": 0.25, "ece": None}}
        assert (found[0]["rows"], found[0]["size"]) == ({"test": 240}, len(examples))
        let_expire(store, ticket)
        again = claim(store, study.id, "other", below=1, phase="confirm-1")
        assert again is not None
        with pytest.raises(LeaseLost):
            write_replicate(store, ticket, Result(), {}, {}, b"")
        assert read_examples(store, study, "confirm-1") == {0: examples}

    def test_a_reader_reads_while_a_writer_writes_and_cannot_write(
        self, store: Store, url: str
    ) -> None:
        study = new_study(store)
        reader = open_reader(url)
        with store.engine.begin() as connection:
            connection.execute(update(tickets).values(worker="held"))
            assert [t.worker for t in ticket_states(reader, study)] == [None] * 3
        with pytest.raises(SweeperError, match=r"(?i)read[- ]?only"):
            claim(reader, study.id, "w", below=100)
        with pytest.raises(SweeperError, match=r"(?i)read[- ]?only"):
            delete_study(reader, study)
        reader.close()

    def test_deleted_study_leaves_no_rows_and_its_id_is_not_reused(self, store: Store) -> None:
        study = new_study(store)
        ticket = take(store, study)
        write_epoch(store, ticket, EPOCH)
        write_result(store, ticket, Result())
        delete_study(store, study)
        for table in metadata.sorted_tables:
            with store.engine.begin() as connection:
                assert connection.execute(table.select()).all() == []
        assert new_study(store).id != study.id

    def test_studies_are_listed_newest_first_and_a_missing_one_is_named(self, store: Store) -> None:
        new_study(store, name="older")
        new_study(store, name="newer")
        assert [study.name for study in all_studies(store)] == ["newer", "older"]
        with pytest.raises(SweeperError, match="did you mean 'older'"):
            get_study(store, "oldr")

    def test_optuna_works_on_the_same_engine(self, store: Store, url: str) -> None:
        create_optuna_study(store, "s")
        create_optuna_study(store, "s")
        reader = open_reader(url)
        assert [study.study_name for study in reader.storage.get_all_studies()] == ["s"]
        reader.close()

    def test_exclusive_lock_excludes_other_launches(self, store: Store, url: str) -> None:
        with store.exclusive_lock():
            other = start_module("exclusive_section", url)
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.5)
        assert other.communicate(timeout=60)[0] == "inside\n"

    def test_trials_are_read_as_optuna_reads_them(self, store: Store) -> None:
        study = self.with_trials(store)
        wanted = [t for t in study.get_trials() if TICKET in t.user_attrs]
        found = read_trials(store, "s")
        assert [t.number for t in found] == [0, 1, 2, 3]
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.number == theirs.number
            assert mine.ticket == theirs.user_attrs[TICKET]
            assert mine.state == theirs.state
            assert mine.params == theirs.params
            assert mine.distributions == theirs.distributions
            assert mine.value == (theirs.value if theirs.values else None)
            assert (mine.finished is None) == (theirs.datetime_complete is None)
        assert trial_numbers(store, "s") == {0: 0, 2: 1, 1: 2, 3: 3}

    def test_trial_creation_and_end_match_optuna(self, store: Store) -> None:
        create_optuna_study(store, "s")
        study = optuna.load_study(study_name="s", storage=store.storage)
        space: dict[str, Any] = {
            "epsilon": FloatDistribution(0.0, 0.4),
            "schedule": CategoricalDistribution(("fixed", "linear")),
            "width": IntDistribution(8, 64, log=True),
        }
        point = {"epsilon": 0.1, "schedule": "linear", "width": 16}
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=point,
                distributions=space,
                user_attrs={TICKET: 7},
            )
        )
        (theirs,) = study.get_trials()
        mine, number = insert_trial(store, study._study_id, 8, point, space)
        assert [t.number for t in study.get_trials()] == [0, 1]
        born = study.get_trials()[1]
        assert (born._trial_id, born.number) == (mine, number)
        assert born.datetime_start is not None
        assert abs((born.datetime_start - datetime.now()).total_seconds()) < 60
        for name in ("state", "params", "distributions", "values", "intermediate_values"):
            assert getattr(born, name) == getattr(theirs, name)
        assert born.user_attrs == {TICKET: 8}
        assert end_trial(store, mine, TrialState.COMPLETE, 0.25, {"scores": {"nll": 0.25}})
        assert not end_trial(store, mine, TrialState.FAIL, None, {})
        study._storage.set_trial_user_attr(theirs._trial_id, "scores", {"nll": 0.25})
        study._storage.set_trial_state_values(theirs._trial_id, TrialState.COMPLETE, [0.25])
        theirs, done = study.get_trials()
        assert done.datetime_complete is not None
        for name in ("state", "values", "params"):
            assert getattr(done, name) == getattr(theirs, name)
        assert done.user_attrs == {**theirs.user_attrs, TICKET: 8}
        assert study.best_value == 0.25
        failed, _ = insert_trial(store, study._study_id, 9, point, space)
        assert end_trial(store, failed, TrialState.FAIL, None, {})
        assert study.get_trials()[2].state == TrialState.FAIL

    def test_worker_without_lease_cannot_create_or_end_a_trial(self, store: Store) -> None:
        create_optuna_study(store, "s")
        study = optuna.load_study(study_name="s", storage=store.storage)
        record = new_study(store, points=1)
        late = take(store, record, "late")
        let_expire(store, late)
        heir = take(store, record, "heir")
        with pytest.raises(LeaseLost):
            insert_trial(store, study._study_id, late.number, {}, {}, late)
        assert study.get_trials() == []
        born, _ = insert_trial(store, study._study_id, heir.number, {}, {}, heir)
        with pytest.raises(LeaseLost):
            end_trial(store, born, TrialState.COMPLETE, 0.5, {}, late)
        assert study.get_trials()[0].state == TrialState.RUNNING
        assert end_trial(store, born, TrialState.COMPLETE, 0.25, {}, heir)
        assert study.best_value == 0.25

    def test_foreign_trials_may_have_a_ticket_of_any_text(self, store: Store) -> None:
        study = self.with_trials(store)
        other = optuna.create_study(study_name="other", storage=store.storage)
        for ticket in ("JIRA-12", None, 1.5, 10**12, {"a": 1}):
            other.add_trial(create_trial(value=1.0, user_attrs={TICKET: ticket}))
        assert [trial.ticket for trial in read_trials(store, "s")] == [0, 2, 1, 3]
        assert count_trials(store, "s", below=4).ended == 3
        assert len(study.get_trials()) == 5

    def test_concurrently_created_trials_have_consecutive_numbers(
        self, store: Store, url: str
    ) -> None:
        create_optuna_study(store, "s")
        study = optuna.load_study(study_name="s", storage=store.storage)
        stores = [open_writer(url) for _ in range(4)]

        def bear_some(number: int) -> None:
            for ticket in range(5):
                insert_trial(stores[number], study._study_id, 5 * number + ticket, {}, {})
                study.ask()  # as another program does

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(bear_some, range(4)))
        for opened in stores:
            opened.close()
        assert [t.number for t in study.get_trials()] == list(range(40))

    def test_trials_are_counted_as_they_are_read(self, store: Store) -> None:
        self.with_trials(store)
        assert count_trials(store, "s", below=4) == TrialCounts(2, 1, 0, best=0.25, baseline=0.5)
        assert count_trials(store, "s", below=1) == TrialCounts(1, 0, 0, best=0.5, baseline=0.5)
        assert count_trials(store, "none", below=4) == TrialCounts(0, 0, 0, None, None)

    def with_trials(self, store: Store) -> optuna.Study:
        """Return a study of four trials of ours, of every kind, with a foreign one among them."""
        create_optuna_study(store, "s")
        study = optuna.load_study(study_name="s", storage=store.storage)
        space: dict[str, Any] = {
            "epsilon": FloatDistribution(0.0, 0.4),
            "schedule": CategoricalDistribution(("fixed", "linear")),
            "width": IntDistribution(8, 64),
        }
        point = {"epsilon": 0.1, "schedule": "linear", "width": 16}
        for ticket, state, value in (
            (0, TrialState.COMPLETE, 0.5),
            (2, TrialState.COMPLETE, 0.25),
            (1, TrialState.PRUNED, 0.125),
            (3, TrialState.RUNNING, None),
        ):
            study.add_trial(
                create_trial(
                    state=state,
                    value=value,
                    params={**point, "epsilon": ticket / 10},
                    distributions=space,
                    user_attrs={TICKET: ticket, "more": "of it"},
                )
            )
        study.add_trial(create_trial(value=-99.0, params=point, distributions=space))
        return study

    def test_study_names_are_case_sensitive(self, store: Store) -> None:
        for name in ("Ann", "ann"):
            new_study(store, name=name)
            create_optuna_study(store, name)
        assert {study.name for study in all_studies(store)} == {"Ann", "ann"}
        assert set(optuna.get_all_study_names(store.storage)) == {"Ann", "ann"}
        assert get_study(store, "ann").name == "ann"
        with pytest.raises(SweeperError, match="no study 'ANN'"):
            get_study(store, "ANN")

    def test_tickets_are_counted(self, store: Store) -> None:
        study = new_study(store)
        dead = take(store, study, "dead")
        let_expire(store, dead)
        take(store, study, "again")
        take(store, study, "other")
        assert count_tickets(store, study, below=3) == TicketCounts(
            planned=3, closed=0, leased=2, retried=1
        )
        assert count_tickets(store, study, below=1) == TicketCounts(
            planned=1, closed=0, leased=1, retried=1
        )
        assert count_tickets(store, study, below=0) == TicketCounts(0, 0, 0, 0)
        assert [t.number for t in held_tickets(store, study)] == [0, 1]


class TestSqlite(DatabaseContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/sweeper.db"

    def test_reads_are_not_blocked_by_the_write_lock(self, store: Store, url: str) -> None:
        create_optuna_study(store, "s")
        other = open_writer(url)
        study = optuna.load_study(study_name="s", storage=other.optuna_reader)
        with store.engine.begin():  # BEGIN IMMEDIATE
            assert study.get_trials() == []
        other.close()

    def test_reader_creates_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(SweeperError, match="file not found"):
            open_reader(f"sqlite:///{tmp_path}/none.db")
        assert list(tmp_path.iterdir()) == []


class TestMysql(DatabaseContract):
    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql

    @pytest.mark.parametrize("made", [1, 5, len(metadata.tables)])
    def test_interrupted_schema_creation_is_resumed(self, mysql: str, made: int) -> None:
        engine = create_engine(mysql)
        metadata.create_all(engine, tables=metadata.sorted_tables[:made])
        engine.dispose()
        store = open_writer(mysql)
        new_study(store)
        assert inspect(store.engine).has_table(VERSION_TABLE)
        store.close()


class TestPostgresql(DatabaseContract):
    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("sweeper.db", "sqlite:///sweeper.db"),
        ("/a/b.db", "sqlite:////a/b.db"),
        ("postgres://u:secret@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql://u:secret@h/d?password=secret", "postgresql+psycopg://u:***@h/d"),
    ],
)
def test_urls_are_completed_and_masked(given: str, url: str) -> None:
    assert masked_url(parse_url(given)) == url


@pytest.mark.parametrize("given", ["mysql+nodriver://u:secret@h/d", "oracle://secret@h", "://"])
def test_unsupported_url_is_rejected_without_its_password(given: str) -> None:
    with pytest.raises(SweeperError, match="allowed") as refusal:
        parse_url(given)
    assert "secret" not in str(refusal.value)


def test_password_with_at_sign_is_parsed() -> None:
    with pytest.raises(SweeperError, match="%40") as refusal:
        parse_url("postgresql://u:se@kret@h/d")
    assert "kret" not in str(refusal.value)


SERVERS = ("mysql://u:sekret@127.0.0.1:1/d", "postgresql://u:sekret@127.0.0.1:1/d")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "wrong", ["nosuch=1", "connect_timeout=abc", "port=abc", "charset=nosuch", "ssl=x&ssl_ca=/none"]
)
def test_invalid_driver_options_are_a_one_line_error(server: str, wrong: str) -> None:
    with pytest.raises(DatabaseFailed, match=r"\+\w+://u:\*\*\*@127.0.0.1:1/d") as refusal:
        open_reader(f"{server}?{wrong}")
    assert len(str(refusal.value).splitlines()) == 1
    assert "sekret" not in str(refusal.value)


@pytest.mark.parametrize("given", [f"mysql://u@{'a' * 70}/d", "postgresql://u@a..b/d", "mysql://"])
def test_invalid_server_name_is_a_one_line_error(given: str) -> None:
    with pytest.raises(SweeperError, match=r"cannot be opened|has no database name") as refusal:
        open_reader(given)
    assert len(str(refusal.value).splitlines()) == 1


def test_tables_of_another_optuna_version_are_a_one_line_error(storage: str) -> None:
    with closing(open_writer(storage)) as store:
        store.transact(lambda c: c.execute(text("update alembic_version set version_num = 'v9'")))
    for opened in (open_reader, open_writer):
        with pytest.raises(DatabaseFailed, match="updating optuna") as refusal:
            opened(storage)
        assert len(str(refusal.value).splitlines()) == 1


def test_held_schema_lock_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_SECONDS", 0.2)
    with (
        FileLock(f"{tmp_path}/s.db.lock"),
        pytest.raises(SweeperError, match=r"s\.db\.lock was held by another launch"),
    ):
        open_writer(f"{tmp_path}/s.db")
