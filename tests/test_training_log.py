"""The log of a run: what a line says, and that every step comes once whatever interrupts."""

import numpy as np
import pytest
from odd_inputs import refused
from runs import STEPS, Stop, run, same, small, stop_at, weights

HEADER = "step,seconds,loss,items_per_second,lr,ema_distance\n"


def read(path):
    return np.genfromtxt(path, delimiter=",", names=True)


def lines(path):
    """The lines without what a clock says."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    return [[r[0], r[2], *r[4:]] for r in rows]


def test_what_a_line_says(tmp_path):
    path, distances, net = tmp_path / "deep" / "log.csv", {}, small()

    def callback(step, score):
        pairs = list(zip(weights(score), weights(net), strict=True))
        apart = sum(float((a - b).double().square().sum()) for a, b in pairs)
        distances[step] = (apart / sum(float(b.double().square().sum()) for _, b in pairs)) ** 0.5

    net, result = run(net, log=path, log_every=12, callback=callback, lr=4e-3)
    log = read(path)
    steps = [12, 24, 36, STEPS]
    assert path.read_text().startswith(HEADER)
    assert log["step"].tolist() == steps
    starts = [0, 12, 24, 36]
    for k, (a, b) in enumerate(zip(starts, steps, strict=True)):
        assert log["loss"][k] == pytest.approx(float(result.losses[a:b].mean()), rel=1e-7)
        seconds = float(result.seconds[b - 1] - (result.seconds[a - 1] if a else 0))
        assert log["items_per_second"][k] == pytest.approx(32 * (b - a) / seconds, rel=1e-6)
        assert log["seconds"][k] == pytest.approx(float(result.seconds[b - 1]), rel=1e-7)
        assert log["lr"][k] == pytest.approx(2e-3 * (1 + np.cos(np.pi * (b - 1) / STEPS)), rel=1e-6)
        assert log["ema_distance"][k] == pytest.approx(distances[b], rel=1e-5)
    assert same((net, result), run(lr=4e-3))


def test_without_averaging_there_is_no_distance(tmp_path):
    run(ema=0.0, log=tmp_path / "log")
    assert read(tmp_path / "log")["ema_distance"] == 0


@pytest.mark.parametrize("stop", [3, 8, 20, 22, 39])
def test_continued_without_gaps_or_repeats(tmp_path, stop):
    places = {"checkpoint": tmp_path / "run", "log": tmp_path / "log", "log_every": 4}
    with pytest.raises(Stop):
        run(callback=stop_at(stop), **places)
    assert len(lines(places["log"])) == 1 + stop // 4
    run(**places)
    run(log=tmp_path / "whole", log_every=4)
    assert lines(places["log"]) == lines(tmp_path / "whole")
    before = places["log"].read_bytes()
    run(**places)  # finished: nothing to add
    assert places["log"].read_bytes() == before


@pytest.mark.parametrize("part", [1, 10, len(HEADER) - 1])
def test_a_partial_last_line_is_repaired(tmp_path, part):
    places = {"checkpoint": tmp_path / "run", "log": tmp_path / "log", "log_every": 4}
    with pytest.raises(Stop):
        run(callback=stop_at(16), **places)
    whole = places["log"].read_text()
    places["log"].write_text(whole + "16,0.123,4.5"[:part])
    run(**places)
    run(log=tmp_path / "whole", log_every=4)
    assert lines(places["log"]) == lines(tmp_path / "whole")
    # A header that was cut short is what a kill in the first moment leaves.
    places["log"].write_text(HEADER[:part])
    (tmp_path / "run").unlink()
    run(**places)
    assert lines(places["log"]) == lines(tmp_path / "whole")


def test_a_new_run_begins_a_new_log(tmp_path):
    run(log=tmp_path / "log", log_every=4)
    run(log=tmp_path / "log", log_every=8)
    assert read(tmp_path / "log")["step"].tolist() == [8, 16, 24, 32, 40]


@pytest.mark.parametrize(
    "content",
    [
        "notes\nof mine\n",
        HEADER + "1,2\n",
        HEADER + "a,b,c,d,e,f\n",
        "step,loss\n1,2\n",
        "\udcff\0",
    ],
)
def test_a_file_that_is_no_log_stays_as_it_is(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content.encode(errors="surrogateescape"))
    before = path.read_bytes()
    refused(r"log: expected .*notes.txt to be a log.*move it away", run, log=path)
    assert path.read_bytes() == before
