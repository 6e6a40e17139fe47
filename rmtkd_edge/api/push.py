"""`push`: an exported folder to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import RunDirError, UserError, reason
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import CARD, EXPORT_RECORD, MANIFEST, ROLES, read_recipe
from rmtkd_edge.run.records.export import ExportRecord

NO_TOKEN = "hf auth login (or set HF_TOKEN), then the same command again; --dry-run needs neither token nor network"


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """What goes where.

    Attributes:
        run: a run, whose student is pushed, or an exported folder, such as students/0.5 of a run.
        repo: OWNER/NAME on the hub.
        private: make the repository private; one that is there and public is refused.
        pull_request: propose the files instead of committing them.
        dry_run: send nothing.
    """

    run: Path
    repo: str
    private: bool = False
    pull_request: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Pushed:
    """What went to the hub, or would go.

    Attributes:
        url: of the commit or the pull request, empty where nothing was sent.
        files: bytes by name.
        card: the model card.
        notes: what to look at before others see it.
    """

    repo: str
    url: str
    files: dict[str, int]
    card: str
    notes: tuple[str, ...]


def push(options: PushOptions) -> Pushed:
    """Send the files of an exported folder that its record lists, and the model card, to the hub.

    Raises:
        UserError: REPO is no id, there is no token, or the hub cannot be reached or refuses.
        RunDirError: nothing was exported, or a file is not the one that was written.
    """
    from rmtkd_edge.export.bundle import check_file, read_record
    from rmtkd_edge.export.origin import is_repo_id

    if "/" not in options.repo or not is_repo_id(options.repo):
        raise UserError(f"`{options.repo}` is no repository of the hub", f"rmtkd-edge push {options.run} OWNER/NAME")
    folder = options.run / ROLES["candidate"].folder if (options.run / MANIFEST).is_file() else options.run
    if not (folder / EXPORT_RECORD).is_file():
        raise RunDirError(f"{folder} is no exported folder", f"rmtkd-edge export {options.run}")
    record = read_record(folder)
    paths = {name: check_file(folder, name, record.files) for name in record.files}
    text, notes = _card(options, folder, record)
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    sizes |= {EXPORT_RECORD: (folder / EXPORT_RECORD).stat().st_size, CARD: len(text.encode())}
    url = "" if options.dry_run else _send(options, {**paths, EXPORT_RECORD: folder / EXPORT_RECORD}, text)
    return Pushed(options.repo, url, dict(sorted(sizes.items())), text, notes)


def _card(options: PushOptions, folder: Path, record: ExportRecord) -> tuple[str, tuple[str, ...]]:
    """Return the card for a repository, and notes on it; one that somebody changed goes as it is."""
    from rmtkd_edge.export.card import card
    from rmtkd_edge.export.origin import edited_card, origin_of

    if not (options.run / MANIFEST).is_file():
        text = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
        if not text:
            raise RunDirError(f"{folder / CARD} is missing", "export again with --force")
        return text, _unlicensed(text)
    run = Run.open(options.run)
    changed = edited_card(run, ROLES["candidate"])
    if changed is not None:
        return changed.decode("utf-8", "replace"), (f"{folder / CARD} was changed by hand and goes as it is",)
    origin = origin_of(run, read_recipe(run), ROLES["candidate"])
    if origin.base_model and origin.license is None and not options.dry_run:
        origin = replace(origin, license=_license_on_hub(origin.base_model))
    text = card(record, origin, options.repo)
    return text, _unlicensed(text)


def _unlicensed(text: str) -> tuple[str, ...]:
    if "\nlicense: " in text.partition("\n---")[0]:
        return ()
    return ("no licence is stated: look up that of the source model",)


def _license_on_hub(base_model: str) -> str | None:
    data = getattr(_asked(lambda: _hub().model_info(base_model)), "card_data", None)
    found = None if data is None else data.get("license")
    return found if isinstance(found, str) else None


def _hub() -> Any:
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError("there is no token for the hub", NO_TOKEN)
    return HfApi(library_name="rmtkd-edge")


def _send(options: PushOptions, paths: dict[str, Path], text: str) -> str:
    from huggingface_hub import CommitOperationAdd

    hub = _hub()
    added = [CommitOperationAdd(name, path) for name, path in paths.items()]
    added.append(CommitOperationAdd(CARD, text.encode()))

    def sent() -> str:
        hub.create_repo(options.repo, private=options.private or None, exist_ok=True)
        if options.private and not hub.repo_info(options.repo).private:
            raise UserError(f"{options.repo} is there already, and public", "make it private there, or name another")
        done = hub.create_commit(
            options.repo, added, commit_message="Export by rmtkd-edge", create_pr=options.pull_request
        )
        return str(done.pr_url or done.commit_url)

    return str(_asked(sent))


def _asked(what: Any) -> Any:
    """Return what the hub answers; raise UserError with its reason otherwise."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    again = "the same command again; --dry-run needs no network"
    try:
        return what()
    except OfflineModeIsEnabled as err:
        raise UserError(f"the hub is not asked: {reason(err)}", f"unset HF_HUB_OFFLINE, then {again}") from err
    except HfHubHTTPError as err:
        denied = err.response is not None and err.response.status_code in (401, 403)
        raise UserError(f"the hub refuses: {reason(err)}", NO_TOKEN if denied else again) from err
    except (HTTPError, OSError, ValueError, RuntimeError) as err:  # ValueError: metadata that the hub does not take
        why = reason(err)
        if isinstance(err, RuntimeError) and err.__cause__ is not None:  # a large file; the cause says what was wrong
            why += f" {reason(err.__cause__)}"
        raise UserError(f"the hub cannot be used: {why}", f"check the connection, then {again}") from err
