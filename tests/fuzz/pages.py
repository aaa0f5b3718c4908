"""Readers of a run's own record, with the page that is made of it.

`tests/fuzz/records/` holds records as runs on painted images left them, cut to a few rows. Where a
record gets another schema, put a new one there: the fuzzer asks that its seeds are read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fieldmark.core.records import RUN, start_run
from fieldmark.report.audit_page import write_audit_page
from fieldmark.report.covar_page import write_covar_page
from fieldmark.report.diagnosis_page import write_diagnosis_page
from fieldmark.report.discovery_page import write_discovery_page
from fieldmark.report.explain_page import write_explanation_page
from fieldmark.report.faithfulness_page import write_faithfulness_page
from fieldmark.report.mitigation_page import write_mitigation_page
from fieldmark.report.page import write_page
from fieldmark.report.sweep_page import write_sweep_page
from tests.fuzz.mutate import damage_json
from tests.fuzz.run import Reader

RECORDS = Path(__file__).parent / "records"
# Record, what writes its page, and the pictures that the record has beside it.
PAGES: Mapping[str, Callable[[Path], Path]] = {
    "audit": write_audit_page,
    "covar": write_covar_page,
    "diagnosis": write_diagnosis_page,
    "discovery": write_discovery_page,
    "explanation": write_explanation_page,
    "faithfulness": write_faithfulness_page,
    "mitigation": write_mitigation_page,
}
NOTES: dict[str, Any] = {
    "refused": [{"method": "dfr", "reason": "no labels", "head": "linear-probe", "setting": ""}],
    "budget": {"seconds": 5, "note": "a note"},
    "comparisons": [],
    "citation": "A paper, 2024",
}
DATA: dict[str, Any] = {"stamps": {"licence": "CC0", "version": "1", "fingerprint": "ab" * 32}}


def prepare_run(folder: Path, *, name: str) -> None:
    """Write a finished run whose record is one of `records`."""
    run = start_run(folder, name, arguments={"model": "m", "data": "d"})
    run.data, run.notes = DATA, NOTES
    (folder / f"{name}.json").write_bytes((RECORDS / f"{name}.json").read_bytes())
    (folder / "page").mkdir()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(folder / "page" / "a.jpg")
    pictures = RECORDS / f"{name}-pictures.json"
    if pictures.is_file():
        (folder / "page" / "pictures.json").write_bytes(pictures.read_bytes())
    run.finish()


def _read_record(content: bytes, folder: Path, *, name: str) -> None:
    (folder / f"{name}.json").write_bytes(content)
    PAGES[name](folder)


def _read_pictures(content: bytes, folder: Path, *, name: str) -> None:
    (folder / "page" / "pictures.json").write_bytes(content)
    PAGES[name](folder)


def _read_manifest(content: bytes, folder: Path, *, write: Callable[[Path], Path]) -> None:
    (folder / RUN).write_bytes(content)
    write(folder)


def _list_records() -> list[Reader]:
    readers = []
    for name in PAGES:
        prepare = functools.partial(prepare_run, name=name)
        seed = json.dumps(json.loads((RECORDS / f"{name}.json").read_bytes())).encode()
        readers.append(
            Reader(
                name=f"{name}.json and its page",
                seeds=[seed],
                read=functools.partial(_read_record, name=name),
                damage=damage_json,
                prepare=prepare,
                share=0.15,
            )
        )
        pictures = RECORDS / f"{name}-pictures.json"
        if pictures.is_file():
            readers.append(
                Reader(
                    name=f"pictures of {name}",
                    seeds=[json.dumps(json.loads(pictures.read_bytes())).encode()],
                    read=functools.partial(_read_pictures, name=name),
                    damage=damage_json,
                    prepare=prepare,
                    share=0.1,
                )
            )
    return readers


def list_readers() -> list[Reader]:
    """Return the readers of records, their pictures and a run's manifest, with their pages."""
    manifest = {
        "schema": 1,
        "verb": "bench",
        "key": "0" * 64,
        "arguments": {"model": "m", "suite": "s"},
        "seeds": [0, 1],
        "data": DATA,
        "weights": {"m": {"licence": "MIT"}},
        "notes": NOTES,
        "versions": {"python": "3.11"},
        "commit": None,
        "dirty": None,
        "started": "2026-01-01T00:00:00Z",
        "seconds": 1.5,
    }
    pages: Mapping[str, Callable[[Path], Path]] = {"demo": write_page, "bench": write_sweep_page}
    return [
        *_list_records(),
        *(
            Reader(
                name=f"run.json and the page of {verb}",
                seeds=[json.dumps(manifest).encode()],
                read=functools.partial(_read_manifest, write=write),
                damage=damage_json,
                share=0.15,
            )
            for verb, write in pages.items()
        ),
    ]
