"""Carrying out a plan: rounds that take turns, kept as they come; an interrupted measurement continues."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .basics import RESULTS_SCHEMA, Json, RunnerError, Say, cell_key, workload_key
from .energy import idle_watts, open_meter, read_meter, spent, suited_to
from .machine import counters, environment
from .plan import load_plan
from .probes import MEMORY, confine, fresh, within_memory
from .results import result_of
from .sessions import ON_DEVICE, Bound, BoundHere, open_session, settings_of, timed_here
from .store import Store, digest_of, has_rounds, previous, write_whole
from .verification import refuse_old, verified_feeds

OPENED_ONCE = "every session was opened once: equal ones may stay a per cent or two apart as long as they are open"
MOST_TURNS, LEAST_CALLS = 8, 8  # of a model in a round, and its calls in a turn
REWARM_S = 0.1  # of unrecorded calls at the most when a session was reopened


def run_block(session: Any, feeds: Json, runs: int, seconds: float, meter: Any) -> Json:
    """Run a model at least `runs` times and `seconds` long, after one run that only brings its weights back in.

    A session of another runtime times its own calls (`timed`), since the way to it is no part of them.
    """
    session.run(None, feeds)
    timed = getattr(session, "timed", None)
    pids = ("self",) if timed is None else tuple(session.pids())
    machine, joules = counters(pids=pids), read_meter(meter)
    block = timed(feeds, runs, seconds) if timed else timed_here(lambda: session.run(None, feeds), runs, seconds)
    after = {name: spent(joules.get(name), reading) for name, reading in read_meter(meter).items()}
    return {**block, "joules": after, "machine": [machine, counters(pids=pids)]}


def measure_rounds(
    plan: Json, folder: Path, sessions: list, feeds: dict, store: Store, meter: Any, say: Say, engine: Engine
) -> None:
    """Measure every workload with all models in turn, round by round, continuing after the rounds that are kept.

    Of equal sessions one stays a per cent or two faster for as long as it is open, presumably by where it lies in
    memory (Mytkowicz et al., ASPLOS 2009), so they are reopened, in another order, before every round; less often
    where that would take longer than the measuring, and never by an engine that does not `reopen`. In a round fast
    models take several turns, so that what else the machine does falls on all of them.
    """
    workloads = {
        workload_key(workload): [store.cell(model, workload)["blocks"] for model in plan["models"]]
        for workload in plan["workloads"]
    }
    turns = store.doc["turns"]
    begun = {key: min(len(blocks) for blocks in cells) // turns.get(key, 1) for key, cells in workloads.items()}
    for key, cells in workloads.items():
        for blocks in cells:
            del blocks[begun[key] * turns.get(key, 1) :]
    start = min(begun.values())
    if start >= plan["rounds"]:
        return
    idle = [store.doc["idle"].setdefault(key, []) for key in workloads]
    watch_idle(plan, idle, store, meter, say)
    warm(sessions, feeds, plan["warmup"])
    runs, seconds = math.ceil(plan["min_runs"] / plan["rounds"]), plan["min_duration_s"] / plan["rounds"]
    for key in workloads:
        one = meter is not None and store.doc["meter"]["needs_window"]  # a slow meter needs long blocks
        turns.setdefault(key, 1 if one else turns_of(sessions, feeds[key], seconds))
    every, opening_s = 0, store.doc["opening_s"]
    for number in range(start, plan["rounds"]):
        if every and (number - start) % every == 0:
            engine.reopen(
                plan, folder, sessions, np.random.default_rng([plan["seed"], number]).permutation(len(sessions))
            )
            store.doc["openings"] += 1
            warm(sessions, feeds, plan["warmup"], REWARM_S)
        begin = time.perf_counter()
        for key, cells in workloads.items():
            for turn in range(turns[key] if number >= begun[key] else 0):
                for i in rotated(len(sessions), number + turn + plan["seed"]):
                    share = math.ceil(runs / turns[key]), seconds / turns[key]
                    cells[i].append(run_block(sessions[i], feeds[key][i], *share, meter))
        if number == start and engine.reopens:
            every = math.ceil(opening_s / (time.perf_counter() - begin))
        store.write()
        say("round", f"round {number + 1} of {plan['rounds']}", done=number + 1, total=plan["rounds"])
    watch_idle(plan, idle, store, meter, say)


def rotated(count: int, by: int) -> list:
    """Return 0 to count - 1, beginning with `by` modulo the count."""
    return [(by + i) % count for i in range(count)]


def turns_of(sessions: list, feeds: list, seconds: float) -> int:
    """Return the turns of a round of `seconds` a model: as many as leave LEAST_CALLS calls of the slowest in each."""
    slowest = 0.0
    for session, feed in zip(sessions, feeds):  # noqa: B905
        begin = time.perf_counter()
        session.run(None, feed)
        slowest = max(slowest, time.perf_counter() - begin)
    return max(1, min(MOST_TURNS, int(seconds / (LEAST_CALLS * slowest))))


def watch_idle(plan: Json, idle: list, store: Store, meter: Any, say: Say) -> None:
    """Put the power of doing nothing into every list of `idle`, in watts."""
    if meter is not None and store.doc["meter"]["needs_window"]:
        say("idle", "idle power")
    watts = idle_watts(meter, store.doc["meter"], plan["idle_s"])
    for readings in idle:
        readings.append(watts)


def warm(sessions: list, feeds: dict, runs: int, seconds: float = math.inf) -> None:
    """Run every model `runs` times under every workload, unrecorded, or `seconds` long if that is less."""
    for under in feeds.values():
        for session, feed in zip(sessions, under):  # noqa: B905
            enough = time.perf_counter() + seconds
            for _ in range(runs):
                session.run(None, feed)
                if time.perf_counter() > enough:
                    break


class Engine:
    """What runs the models: onnxruntime in this process. A subclass puts another runtime in its place.

    Its sessions answer to run, get_inputs, get_outputs, get_providers, timed (a block without machine and joules) and
    pids (the processes that do the work).
    """

    version = onnxruntime.__version__
    reopens = True
    no_meter = ""  # why there is no energy, where a meter could not tell
    cold_start = "process start to first output, median, files in the page cache"
    memory = MEMORY

    def open(self, plan: Json, folder: Path) -> tuple[list, list, list]:
        """Return the models that load, their sessions, and notes on those that do not."""
        return plan["models"], [self.session(plan, folder, model) for model in plan["models"]], []

    def reopen(self, plan: Json, folder: Path, sessions: list, order: Any) -> None:
        """Close all sessions of a list, and put new ones in their places, opened in `order`."""
        sessions[:] = [None] * len(sessions)
        for i in order:
            sessions[i] = self.session(plan, folder, plan["models"][i])

    def session(self, plan: Json, folder: Path, model: Json) -> Any:
        """Return a new session of one model."""
        settings = settings_of(plan, model)
        session, device = open_session(settings, folder / model["file"]), ON_DEVICE.get(plan["provider"])
        if device is not None:
            return Bound(session, device)
        return BoundHere(session) if settings["io_binding"] else session

    def environment(self, plan: Json, session: Any) -> Json:
        """Return what ran where."""
        return environment(plan, session)

    def probe(self, plan_path: Path, pair: tuple | None) -> Json:
        """Return memory and cold start of (model, workload), by number, in a fresh process; None: of a bare import."""
        return fresh(["--probe", "import"] if pair is None else ["--probe", "model", str(plan_path), *map(str, pair)])


def run_probes(plan: Json, plan_path: Path, store: Store, say: Say, engine: Engine) -> None:
    """Fill the probes: a bare import, and every model under every workload; several fresh processes of each."""
    probes, repeats = store.doc["probes"], int(plan.get("probe_repeats", 3))
    if "import" not in probes:
        probes["import"] = [engine.probe(plan_path, None) for _ in range(repeats)]
    for j, workload in enumerate(plan["workloads"]):
        for i, model in enumerate(plan["models"]):
            if cell_key(model, workload) not in probes:
                if repeats:
                    say("probe", f"{workload_key(workload)}: memory and cold start of {model['label']}")
                probes[cell_key(model, workload)] = [engine.probe(plan_path, (i, j)) for _ in range(repeats)]
                limit = (plan.get("limits") or {}).get("memory_bytes")
                if limit:
                    argv = ["--probe", "model", str(plan_path), str(i), str(j)]
                    probes[f"limit|{cell_key(model, workload)}"] = within_memory(
                        limit, probes[cell_key(model, workload)], argv
                    )
                store.write()


def measure(plan_path: Path, results: Path, say: Say, engine: Engine | None = None) -> Json:
    """Carry out a plan and return the results document, which is also written to `results`."""
    engine = engine or Engine()
    document = previous(results)
    try:
        plan = load_plan(plan_path)
        refuse_old(plan, engine.version)
        store = Store(results, plan, engine.version)
        try:
            return _measure(plan, plan_path, store, say, engine)
        finally:
            if has_rounds(store.doc) or not has_rounds(document):  # else a refused plan would cost another's rounds
                document = store.doc
    except RunnerError as err:
        error = {"kind": err.kind, "message": str(err)}
        with contextlib.suppress(RunnerError):  # a full disk is named by the error that is on its way
            write_whole(results, {"schema": RESULTS_SCHEMA, "complete": False, **document, "error": error})
        raise


def _measure(plan: Json, plan_path: Path, store: Store, say: Say, engine: Engine) -> Json:
    folder, begin = plan_path.parent, time.perf_counter()
    held = confine(plan)
    models, sessions, store.doc["notes"] = engine.open(plan, folder)
    store.doc["openings"] = store.doc.get("openings", 0) + 1
    plan = {**plan, "models": models}
    store.doc["env"] = {**engine.environment(plan, sessions[0]), **({} if held is None else {"limits": held})}
    meter, facts = open_meter(plan, folder)
    facts["skipped"] += [engine.no_meter] if engine.no_meter else []
    if store.resumed and store.doc.get("meter", {}).get("name") != facts["name"]:
        store.doc.update(cells={}, idle={}, turns={})  # energies of two meters cannot be added up
    store.doc["meter"] = facts
    plan = suited_to(plan, facts)
    continued = ", continued" if store.resumed else ""
    say("start", f"{len(models)} models, {len(plan['workloads'])} workloads{continued}")
    try:
        feeds = {
            workload_key(workload): verified_feeds(plan, folder, workload, sessions, store)
            for workload in plan["workloads"]
        }
        store.doc["opening_s"] = time.perf_counter() - begin  # a first call may choose kernels, for seconds on a GPU
        measure_rounds(plan, folder, sessions, feeds, store, meter, say, engine)
    finally:
        if meter is not None:
            meter.close()
    if store.doc["openings"] == 1 and min(len(models), plan["rounds"]) > 1:
        store.doc["notes"] = [*store.doc["notes"], OPENED_ONCE]
    del sessions
    run_probes(plan, plan_path, store, say, engine)
    pairs = [(model, workload) for workload in plan["workloads"] for model in models]
    store.doc["results"] = [result_of(plan, plan_path, store.doc, model, workload, engine) for model, workload in pairs]
    store.doc["complete"] = True
    del store.doc["cells"], store.doc["probes"]  # all of it is in the results now
    store.doc["digest"] = digest_of(store.doc)
    store.write()
    say("done", f"{len(pairs)} results measured")
    return store.doc
