import json

import pytest

from privacy import Budget, Ledger, LedgerCorrupt, Release, Slot
from privacy.errors import LedgerError
from privacy.ledger.export import export_ledger, import_ledger
from privacy.ledger.records import Record

RELEASE = Release("delta", clip_norm=1.0, sensitivity=1.0, noise_std=1.0)


@pytest.fixture
def exported(tmp_path):
    plan = [Slot("training", 0.01, 1.0, 5)]
    ledger = Ledger.create(tmp_path / "a.db", Budget(2.0, 1e-5), population=1000, slots=plan)
    for step in range(3):
        draw = ledger.reserve(
            purpose="training",
            sampling_rate=0.01,
            releases=[RELEASE],
            run_id="run",
            round=step,
            cohort_id=f"cohort {step}",
        )
        draw.open()
        if step:
            draw.commit("00")
    export_ledger(ledger, tmp_path / "a.jsonl")
    yield ledger, tmp_path / "a.jsonl"
    ledger.close()


def test_import_rebuilds_the_same_ledger(exported, tmp_path):
    ledger, lines = exported
    with import_ledger(lines, tmp_path / "b.db", head=ledger.head) as copy:
        copy.verify()
        assert copy.head == ledger.head
        assert copy.spent() == ledger.spent()
        assert copy.remaining("training") == ledger.remaining("training")
        assert [draw.state for draw in copy.find("run")] == ["open", "committed", "committed"]


def test_import_cannot_spend_more_than_the_original(exported, tmp_path):
    _, lines = exported
    with import_ledger(lines, tmp_path / "b.db") as copy:
        assert copy.remaining("training").slots[0].count == 2


@pytest.mark.parametrize("damage", ["byte", "delete", "swap", "garbage", "field"])
def test_import_names_the_first_bad_record(exported, tmp_path, damage):
    _, lines = exported
    content = lines.read_bytes().splitlines(keepends=True)
    if damage == "byte":
        content[4] = (
            content[4].replace(b"training", b"trainins").replace(b'\\"round\\":', b'\\"rounD\\":')
        )
        content[4] = content[4].replace(b'\\"time\\":1', b'\\"time\\":2')
    elif damage == "delete":
        del content[4]
    elif damage == "swap":
        content[4], content[5] = content[5], content[4]
    elif damage == "garbage":
        content[4] = b"not json\n"
    else:
        content[4] = json.dumps({**json.loads(content[4]), "seq": True}).encode() + b"\n"
    (tmp_path / "bad.jsonl").write_bytes(b"".join(content))
    with pytest.raises(LedgerCorrupt, match="record 4 is bad") as caught:
        import_ledger(tmp_path / "bad.jsonl", tmp_path / "b.db")
    assert caught.value.record == 4
    assert not (tmp_path / "b.db").exists()


def test_import_of_a_chain_cut_short_is_refused_when_the_head_is_known(exported, tmp_path):
    ledger, lines = exported
    content = lines.read_bytes().splitlines(keepends=True)
    lines.with_name("cut.jsonl").write_bytes(b"".join(content[:-1]))
    with pytest.raises(LedgerCorrupt, match="cut short or belongs to another"):
        import_ledger(lines.with_name("cut.jsonl"), tmp_path / "b.db", head=ledger.head)


def test_import_refuses_a_well_formed_chain_that_overspends(exported, tmp_path):
    ledger, _ = exported
    records = list(ledger.entries())
    body = next(record.body for record in records if record.kind == "reserve")
    for index in range(9):
        records.append(Record.after(records[-1], "reserve", {**body, "cohort_id": f"new {index}"}))
    text = "".join(json.dumps(vars(record)) + "\n" for record in records)
    (tmp_path / "over.jsonl").write_text(text)
    with pytest.raises(LedgerCorrupt, match="rules") as caught:
        import_ledger(tmp_path / "over.jsonl", tmp_path / "b.db")
    assert caught.value.record == len(records) - 9 + 2


def test_import_refuses_a_draw_that_its_slot_does_not_dominate(exported, tmp_path):
    ledger, _ = exported
    records = list(ledger.entries())
    body = next(record.body for record in records if record.kind == "reserve")
    louder = {**body, "cohort_id": "new", "charged_multiplier": 0.5}
    records.append(Record.after(records[-1], "reserve", louder))
    (tmp_path / "a2.jsonl").write_text("".join(json.dumps(vars(r)) + "\n" for r in records))
    with pytest.raises(LedgerCorrupt, match="dominate"):
        import_ledger(tmp_path / "a2.jsonl", tmp_path / "b.db")


def test_export_and_import_never_overwrite(exported, tmp_path):
    ledger, lines = exported
    with pytest.raises(LedgerError, match="free path"):
        export_ledger(ledger, lines)
    with pytest.raises(LedgerError, match="free path"):
        import_ledger(lines, tmp_path / "a.db")
    ledger.verify()
    assert [path.name for path in tmp_path.iterdir() if "draft" in path.name] == []
