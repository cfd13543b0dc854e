from __future__ import annotations

import json


def test_data_is_fetched_checked_and_then_the_default(clone, server, small_squad):
    folder, address = server
    content = small_squad.read_bytes()
    vocab = (clone.top / "code" / "bert" / "data" / "vocab.txt").read_bytes()
    for name, file, data in (("squad-v1.1", "dev.json", content), ("vocab", "vocab.txt", vocab)):
        (folder / file).write_bytes(data)
        clone.stand_in(name, data, f"{address}/{file}")

    before = clone.harness("data", "list")
    assert "no: run `make data`" in before.stdout
    fetched = clone.harness("data", "fetch")
    assert fetched.returncode == 0, fetched.stderr
    assert (clone.top / "build/data/dev-v1.1.json").read_bytes() == content
    assert (clone.top / "build/data/vocab.txt").read_bytes() == vocab
    places = {"squad-v1.1": clone.top / "build/data/dev-v1.1.json", "vocab": clone.top / "build/data/vocab.txt"}
    assert fetched.stdout.splitlines() == [f"{name}: {place}" for name, place in places.items()]
    again = clone.harness("data", "fetch", "--json")
    assert json.loads(again.stdout) == {name: str(place) for name, place in places.items()}
    run = clone.harness("run", "--engine", "null", "--mode", "accuracy")
    assert "data set squad-v1.1 " in run.stderr
    assert run.returncode == 0, run.stderr


def test_what_has_another_content_is_refused_and_nothing_stays(clone, server):
    folder, address = server
    (folder / "dev.json").write_bytes(b"not what was promised")
    clone.stand_in("squad-v1.1", b"what was promised....", f"{address}/dev.json")
    fetched = clone.harness("data", "fetch", "squad-v1.1")
    assert fetched.returncode != 0
    assert "sha256" in fetched.stderr
    assert "Traceback" not in fetched.stderr
    assert not (clone.top / "build/data/dev-v1.1.json").exists()


def test_an_unreachable_server_says_what_to_do(clone):
    clone.stand_in("squad-v1.1", b"x", "http://127.0.0.1:9/dev.json")
    fetched = clone.harness("data", "fetch", "squad-v1.1")
    assert fetched.returncode == 1
    assert fetched.stderr.count("error:") == 1
    assert str(clone.top / "build/data/dev-v1.1.json") in fetched.stderr  # where to put a copy by hand
    assert "Traceback" not in fetched.stderr


def test_an_unknown_data_set_is_answered_with_the_nearest(clone):
    fetched = clone.harness("data", "fetch", "squad-1.1")
    assert fetched.returncode == 2
    assert "did you mean 'squad-v1.1'?" in fetched.stderr
