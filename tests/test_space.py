"""The Space: what its page is made of, and the page itself, as it is published, in a browser."""

import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from space_files import HOSTILE

from modeling_adapt.cli import hub_upload
from modeling_adapt.errors import InputError
from modeling_adapt.simulation.calculator import ADAPTCalculator

pytest.importorskip("gradio")
from space import app  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
ANSWER = re.compile(r"Formation energy\s*(?:</small>)?\s*(-?[\d.]+) ± ([\d.]+) eV")
SECONDS = 600  # for what takes some on an idle machine


@pytest.fixture(scope="module", autouse=True)
def _reader() -> None:
    multiprocessing.set_forkserver_preload(["space.app"])


@pytest.fixture(scope="module")
def vacancy(tmp_path_factory) -> tuple[list[app.Shown], Path]:
    """All that is shown of a vacancy, and the folder with what was written."""
    folder = tmp_path_factory.mktemp("vacancy")
    return list(app.relaxation(app.from_menu("Vacancy", "64 atoms"), folder)), folder


class TestWhatItIsMadeOf:
    def test_the_menu(self):
        atoms = {name: app.from_menu(name, "64 atoms").atoms for name in app.DEFECTS}
        change = {name: len(one) - 64 for name, one in atoms.items()}
        assert [change[name] for name in ("Vacancy", "Divacancy", "Di-interstitial")] == [-1, -2, 2]
        assert all(change[name] == 1 for name in change if name.endswith(" interstitial"))
        assert {len(app.from_menu("Vacancy", cells).atoms) + 1 for cells in app.CELLS} == {64, 216, 512}

    def test_a_vacancy(self, vacancy):
        """The energy that is shown is that of the file that is offered, against the perfect crystal."""
        shown, _ = vacancy
        last = shown[-1]
        assert all(one.runs and "step" in one.headline for one in shown[:-1]) and not last.runs
        found = ANSWER.search(last.headline)
        assert found is not None, last.headline
        relaxed, perfect = ase.io.read(last.files[0], format="vasp"), app.from_menu("Vacancy", "64 atoms").host
        energies = []
        for atoms in (relaxed, perfect):
            atoms.calc = ADAPTCalculator()
            energies.append(atoms.get_potential_energy())
        assert float(found[1]) == pytest.approx(energies[0] - 63 / 64 * energies[1], abs=0.006)
        assert float(found[2]) > 0 and "Converged" in last.headline and not last.warnings

    def test_what_is_drawn(self, vacancy):
        shown, _ = vacancy
        first, last = (json.loads(shown[place].view) for place in (0, -1))
        assert first["start"] == last["start"] and first["extent"] == last["extent"]
        assert len(last["end"]) == len(last["doubt"]) == 63 and len(last["defects"]) == 1
        ways = np.linalg.norm(np.subtract(last["end"], last["start"]), axis=1)
        assert set(last["moved"]) >= set(np.flatnonzero(ways > 0.102))
        assert shown[-1].charts.count("<svg") == 2 and "fmax (eV/Å)" in shown[-1].charts

    def test_files(self, vacancy):
        shown, folder = vacancy
        poscar, relaxed, steps, report = shown[-1].files
        assert len(shown[-1].files) == len(app.FILES)
        np.testing.assert_allclose(
            ase.io.read(poscar, format="vasp").get_distance(0, 1, mic=True),
            ase.io.read(relaxed).get_distance(0, 1, mic=True),
            atol=1e-6,
        )
        assert len(ase.io.read(steps, ":")) > 10 and "atom_doubt" in ase.io.read(relaxed).arrays
        page = report.read_text()
        assert "formation energy" in page and '"doubt":[' in page and str(folder) not in page

    def test_a_file_tells_its_host_and_one_may_be_given(self, tmp_path):
        made = app.from_menu("Hexagonal interstitial", "64 atoms")
        ase.io.write(tmp_path / "hex.cif", made.atoms)
        ase.io.write(tmp_path / "host.vasp", made.host, format="vasp")
        found = app.from_files(str(tmp_path / "hex.cif"), None, None)
        assert found.name == "hex" and len(found.atoms) == 65 and len(found.host) == 64
        given = app.from_files(str(tmp_path / "hex.cif"), str(tmp_path / "host.vasp"), None)
        np.testing.assert_allclose(given.host.positions, made.host.positions, atol=1e-6)
        noise = bulk("Si", cubic=True)
        noise.rattle(0.8, seed=0)
        ase.io.write(tmp_path / "noise.extxyz", noise)
        assert "no host crystal found" in app.from_files(str(tmp_path / "noise.extxyz"), None, None).without_host

    def test_limits_of_a_run(self, monkeypatch, tmp_path):
        monkeypatch.setattr(app, "MOST_SECONDS", 0)
        *_, last = app.relaxation(app.from_menu("Vacancy", "64 atoms"), tmp_path)
        assert "Not converged after 0 steps" in last.headline and "stops after 0 seconds" in last.warnings

    def test_a_relaxation_that_leaves_the_training_says_so(self, tmp_path):
        job = app.from_menu("Vacancy", "64 atoms")
        job.atoms.set_cell(job.atoms.cell * 0.9, scale_atoms=True)
        *_, last = app.relaxation(job, tmp_path)
        assert "unlike those the model was trained on" in last.warnings and "Formation energy" not in last.headline
        assert "its cell is not that of the host" in last.headline

    def test_hostile_files_are_one_sentence(self, monkeypatch, tmp_path):
        monkeypatch.setattr(app, "MOST_READING", 10)
        for name, (content, said) in HOSTILE.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError) as refused:
                list(app.relaxation(app.from_files(str(tmp_path / name), None, None), tmp_path))
            message = str(refused.value)
            assert re.search(said, message), (name, message)
            assert "\n" not in message and str(tmp_path) not in message and len(message) < 400, message

    def test_a_file_that_takes_too_long(self, monkeypatch, tmp_path):
        ase.io.write(tmp_path / "POSCAR", bulk("Si", cubic=True), format="vasp")
        monkeypatch.setattr(app, "MOST_READING", 0)
        with pytest.raises(InputError, match="^POSCAR takes too long to read$"):
            app.from_files(str(tmp_path / "POSCAR"), None, None)

    def test_nothing_is_told_to_others(self):
        assert not app.gr.analytics.analytics_enabled()
        assert "http" not in app.VIEWER + app.STYLE + app.COLOURS


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Of the page as `hub_upload.py --space` would publish it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("space")
    hub_upload.main(["--space", "org/relax", "--save", str(folder / "saved")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    drop = ("HF_", "PYTHONPATH", "GRADIO")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "files"), "HF_HUB_OFFLINE": "1"}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder / "saved", env=environment, stdout=log, stderr=log
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
        assert server.poll() is None, (folder / "log").read_text()
    finally:
        server.terminate()
        server.wait(60)
    assert "Traceback" not in (folder / "log").read_text()


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(SECONDS):
        assert server.poll() is None, log.read_text()
        try:
            urlopen(url, timeout=10).close()
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text())


@pytest.mark.slow
class TestInABrowser:
    @pytest.fixture(scope="class")
    def browser(self):
        playwright = pytest.importorskip("playwright.sync_api")
        if not CHROMIUM.exists():
            pytest.skip("there is no Chromium")
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
            yield browser
            browser.close()

    @pytest.fixture(params=[1280, 400])
    def page(self, request, browser, address):
        """At two widths; what goes wrong in it, or asks for something elsewhere, fails the test."""
        page = browser.new_page(viewport={"width": request.param, "height": 900})
        page.set_default_timeout(1000 * SECONDS)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda one: wrong.append(one.url) if not one.url.startswith((address, "data:", "blob:")) else None,
        )
        page.goto(address)
        _wait(page, "ready to relax")
        yield page
        assert not wrong
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.close()

    def test_a_vacancy_to_its_end(self, page, tmp_path):
        still = _picture(page)
        page.click("#relax-menu")
        _wait(page, "Relaxing: step")
        assert page.is_visible("#stop")
        _wait(page, "Formation energy")
        assert ANSWER.search(page.inner_text("#headline")) and not page.is_visible("#stop")
        relaxed = _picture(page)
        assert relaxed != still and page.locator("#charts svg").count() == 2
        page.locator("#view canvas").scroll_into_view_if_needed()
        box = page.locator("#view canvas").bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 180, box["y"] + 120)
        page.mouse.up()
        turned = _picture(page)
        assert turned != relaxed
        page.select_option("#view select", "doubt")
        assert _picture(page) != turned and "1: unlike the training" in page.inner_text("#view .key")
        poscar, relaxed, steps, report = (_download(page, name, tmp_path) for name in app.FILES)
        assert len(ase.io.read(poscar, format="vasp")) == len(ase.io.read(relaxed)) == 63
        assert len(ase.io.read(steps, ":")) > 10
        assert "<h1>Relaxations with adapt-si</h1>" in report.read_text()

    def test_an_upload_an_error_and_an_example(self, page, tmp_path):
        page.get_by_role("tab", name="Your structure").click()
        page.click("#relax-file")
        _wait(page, "drop a POSCAR, CIF or extxyz file first")
        content, said = HOSTILE["POSCAR_cut"]
        page.set_input_files("#structure input", {"name": "POSCAR_cut", "mimeType": "", "buffer": content})
        page.wait_for_function(f"/{said}/.test(document.querySelector('#headline').innerText)")
        page.get_by_label("Clear").or_(page.get_by_label("Remove")).first.click()
        atoms = app.from_menu("Hexagonal interstitial", "64 atoms").atoms
        ase.io.write(tmp_path / "hexagonal.extxyz", atoms)
        page.set_input_files("#structure input", tmp_path / "hexagonal.extxyz")
        _wait(page, "Si65: ready to relax")
        page.click("#relax-file")
        _wait(page, "Formation energy")
        page.get_by_role("button", name="Try POSCAR").click()
        _wait(page, "Relaxing: step")
        page.click("#stop")
        _wait(page, "Stopped.")


def _wait(page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#headline')?.innerText.includes(text)", arg=text)


def _picture(page) -> str:
    """What is drawn, once it is."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture = page.evaluate("document.querySelector('#view canvas').toDataURL()")
    assert len(picture) > 10_000
    return picture


def _download(page, name: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("button", name=name).or_(page.get_by_role("link", name=name)).first.click()
    started.value.save_as(folder / name / started.value.suggested_filename)
    return folder / name / started.value.suggested_filename


@pytest.mark.slow
def test_many_at_once_and_hostile_files_leave_it_standing(address, tmp_path):
    client = pytest.importorskip("gradio_client")
    asked = client.Client(address, verbose=False)
    runs = [asked.submit("Vacancy", "64 atoms", api_name="/relax_menu") for _ in range(20)]
    refused = {}
    for name, (content, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
        try:
            file = client.handle_file(tmp_path / name)
            refused[name] = asked.predict(file, None, None, api_name="/relax_files")[0]
        except Exception as error:  # what is too large is refused before the page sees it
            refused[name] = str(error)
    for name, (_, said) in HOSTILE.items():
        assert re.search(said, refused[name]), (name, refused[name])
    assert all(ANSWER.search(str(run.result(timeout=SECONDS)[0])) for run in runs)
    assert ANSWER.search(str(asked.predict("Divacancy", "64 atoms", api_name="/relax_menu")[0]))
