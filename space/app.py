"""The Space: a page on which a defect is relaxed while one watches. `make space` serves it here."""

import copy
import html
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # before these are imported

import ase.io
import gradio as gr
import numpy as np
import torch
from ase import Atoms

from modeling_adapt.crystal.host_crystal import host_of
from modeling_adapt.crystal.minimum_image import displacements
from modeling_adapt.data.defects.distortion import distort
from modeling_adapt.data.defects.kinds import DEFECT_KINDS, silicon_supercell
from modeling_adapt.errors import InputError, one_line
from modeling_adapt.pretrained_adapt import DEFAULT_MODEL
from modeling_adapt.simulation import results
from modeling_adapt.simulation.calculator import ADAPTCalculator
from modeling_adapt.simulation.doubt import UNUSUAL, DifferenceDoubt
from modeling_adapt.simulation.inputs import read_structure
from modeling_adapt.simulation.ranking import Candidate, Host, converged_candidates, rank, write_ranking
from modeling_adapt.simulation.relaxation import (
    DISPLACED,
    FINISHED,
    RelaxationResult,
    RelaxationWatch,
    doubted,
    relax,
    relaxing,
    require_predictable,
)
from modeling_adapt.simulation.report import write_report
from modeling_adapt.simulation.report_drawings import TEMPLATES, Scene, charts_html, progress_charts, views_html
from modeling_adapt.tables import plus_minus

MODEL = os.environ.get("ADAPT_MODEL", DEFAULT_MODEL)  # a folder, or organisation/name on the Hub
FMAX = 0.05  # eV/Å, as in relax.py

# So that a public page on two cores stays up, whatever it is given.
MOST_BYTES = 1_000_000
MOST_ATOMS = 600
MOST_STEPS = 300
MOST_SECONDS = 180
MOST_READING = 20  # seconds
AT_ONCE = 2
MOST_WAITING = 40
LEAST_VOLUME = 4.0  # Å^3 of an atom; diamond has 5.7
MOST_SKEW = 20.0  # product of the edges of a cell over its volume; of fcc 1.4
KEPT = 3600  # seconds, of what was uploaded and what can be downloaded
BETWEEN = 0.25  # seconds, from one picture to the next

FORMATS = {"vasp": ("POSCAR", "CONTCAR", ".vasp", ".poscar"), "cif": (".cif",), "extxyz": (".extxyz", ".xyz")}
DEFECTS = {
    "Vacancy": "vacancy",
    "⟨110⟩ split interstitial": "interstitial_split_110",
    "Hexagonal interstitial": "interstitial_hexagonal",
    "Tetrahedral interstitial": "interstitial_tetrahedral",
    "Divacancy": "divacancy",
    "Di-interstitial": "di_interstitial",
}
CELLS = {"64 atoms": 2, "216 atoms": 3, "512 atoms": 4}
FILES = ("POSCAR", "extxyz", "all steps", "report")
# What a finding of the trained region means to who is no expert of it.
MEANINGS = {
    "elements": "The model was not trained on this element",
    "charge": "The model was not trained on this charge",
    "number of atoms": "The cell is larger or smaller than those the model was trained on",
    "cell": "The cell is unlike those the model was trained on, so energies may be off",
    "host": "This is not the crystal that the model was trained on",
    "distance": "Two atoms came closer than the model has ever seen, so the relaxation was stopped",
    "displacement": "An atom moved further than in any training run; it may be on its way to another defect",
    "force": "Forces were larger than any the model was trained on; a gentler start may end elsewhere",
    "not finite": "The forces are no longer numbers, so the relaxation was stopped",
}


class Job(NamedTuple):
    """What is to be relaxed, and the perfect crystal around it or why there is none."""

    name: str
    atoms: Atoms
    host: Atoms | None
    without_host: str = ""


def from_menu(defect: str, cells: str) -> Job:
    """A defect off its ideal geometry, so that symmetry does not hold it."""
    host = silicon_supercell(repeat=CELLS[cells])
    rng = np.random.default_rng(0)
    made = distort(DEFECT_KINDS[DEFECTS[defect]](host, rng), rng, bond_factors=(0.0,), rattle=0.05)
    return Job(DEFECTS[defect], made.atoms, host)


def from_files(path: str | None, host_path: str | None, charge: float | None) -> Job:
    """What somebody uploaded; without a host, that which the structure tells."""
    if path is None:
        raise InputError("drop a POSCAR, CIF or extxyz file first")
    name, atoms = _read(path, charge)
    if host_path is not None:
        return Job(name, atoms, _read(host_path, 0.0)[1])
    try:
        return Job(name, atoms, host_of(atoms))
    except InputError as error:
        return Job(name, atoms, None, str(error))


def _read(path: str, charge: float | None) -> tuple[str, Atoms]:
    """The name and the last structure of a file, which another process reads: some files never come to an end."""
    file = Path(path)
    kind = next((kind for kind, names in FORMATS.items() if file.name.endswith(names)), None)
    kind = kind or ("vasp" if re.match("(POS|CONT)CAR", file.name) else None)
    if kind is None:
        raise InputError(f"{file.name} is no POSCAR, CIF or extxyz file by its name; rename it, such as to NAME.vasp")
    if file.stat().st_size > MOST_BYTES:
        raise InputError(f"{file.name} is larger than {MOST_BYTES / 1e6:g} MB; give the last structure alone")
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    reader = context.Process(target=_send, args=(theirs, file, kind, calculator().reads_charge, charge), daemon=True)
    reader.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(MOST_READING) else InputError(f"{file.name} takes too long to read")
    except EOFError:
        found = InputError(f"{file.name} cannot be read: it asks for too much memory")
    finally:
        reader.kill()
        reader.join()
    if isinstance(found, InputError):
        raise InputError(" ".join(str(found).replace(str(file), file.name).split()))
    _require_modest(file.name, found)
    name = re.sub(r"[^\w.+-]", "_", file.stem)[:60]
    return name.lower() if "CAR" in name else name, found  # or programs take POSCAR.relaxed.extxyz for a POSCAR


def _send(pipe: Any, *arguments: Any) -> None:
    """What a file holds, or what is wrong with it; in a process that has little memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
    try:
        atoms = read_structure(*arguments)
        atoms.calc = None
        atoms.info = {name: atoms.info[name] for name in ("charge",) if name in atoms.info}
        pipe.send(atoms)
    except MemoryError:
        return  # the pipe is closed, which tells it
    except InputError as error:
        if "MemoryError" not in str(error):
            pipe.send(InputError(one_line(error)[:300]))


def _require_modest(name: str, atoms: Atoms) -> None:
    """Raises [`InputError`] for what would take a public page minutes, or all its memory."""
    if len(atoms) > MOST_ATOMS:
        raise InputError(
            f"{name} has {len(atoms):,} atoms, and this page takes at most {MOST_ATOMS}; relax.py has no limit"
        )
    if not atoms.pbc.all():
        raise InputError(f"{name} is not periodic in all three directions; this page relaxes defects in crystals")
    volume = abs(atoms.cell.volume)
    if volume < LEAST_VOLUME * len(atoms) or not np.isfinite(volume):
        raise InputError(f"{name} has {volume / len(atoms):.2f} Å³ for an atom; are lengths in Å?")
    if atoms.cell.lengths().prod() > MOST_SKEW * volume:
        raise InputError(f"the cell of {name} is too skewed; give an equivalent one with larger angles")


@cache
def calculator() -> ADAPTCalculator:
    """The model, of which each relaxation takes a copy: several may run at once."""
    return ADAPTCalculator.from_pretrained(MODEL, outside_domain="ignore")


class Shown(NamedTuple):
    """
    What the page shows at some moment: a headline as HTML, the structure as JSON and charts as HTML; whether there is
    more to come; at the end what to know, and the files of `FILES`.
    """

    headline: str
    view: str = ""
    charts: str = ""
    warnings: str = ""
    runs: bool = False
    files: Sequence[Path] = ()


def start_of(job: Job) -> Shown:
    """Before the relaxation."""
    view = Scene.of(job.atoms).view(np.zeros((len(job.atoms), 3)))
    return Shown(_headline("", "", f"{job.atoms.get_chemical_formula()}: ready to relax"), json.dumps(view))


def relaxation(job: Job, output: Path) -> Iterator[Shown]:
    """Pictures of a relaxation as it runs; what it comes to is written into `output` before the last one."""
    model, began, pictured = copy.deepcopy(calculator()), time.monotonic(), 0.0
    atoms, scene = model.as_read(job.atoms), Scene.of(job.atoms)
    require_predictable(atoms, model)
    record = {"model": [MODEL], "fmax": FMAX, "finish": FINISHED, "steps": MOST_STEPS, "structures": 1}
    results.write_record(output, record)
    watch = RelaxationWatch(atoms, FMAX, model.domain, output / f"{job.name}.traj.extxyz", None, MOST_STEPS, FINISHED)
    fmax, energies, late = [], [], False
    for frame in relaxing(watch, model):
        fmax.append(watch.largest_force)
        energies.append(frame.calc.results.get("energy", np.nan))
        if time.monotonic() - pictured > BETWEEN:
            pictured = time.monotonic()
            title = f"Relaxing: step {watch.steps}, largest force {watch.largest_force:.3f} eV/Å"
            drawn = _picture(scene, frame, model.results.get("atom_doubt"), fmax, energies)
            yield Shown(_headline("", "", title), *drawn, runs=True)
        if late := time.monotonic() - began > MOST_SECONDS:
            break
    result = doubted(watch.result(model.results.get("forces_std")), model)
    best, why_not = _written(job, result, model, output)
    warnings = _warnings(watch, result, late)
    written = [results.result_file(job.name, output), results.trajectory_file(job.name, output)]
    files = [output / f"{job.name}.vasp", *written, output / "report.html"]
    drawn = _picture(scene, result.atoms, result.atoms.arrays.get("atom_doubt"), fmax, energies)
    yield Shown(_conclusion(result, best, why_not), *drawn, _listed(warnings), files=files)


def _picture(
    scene: Scene, atoms: Atoms, doubt: np.ndarray | None, fmax: list[float], energies: list[float]
) -> tuple[str, str]:
    charts = charts_html(progress_charts(np.array(fmax), np.array(energies, dtype=float), FMAX))
    return json.dumps(scene.view(displacements(scene.start, atoms), doubt)), charts


def _written(job: Job, result: RelaxationResult, model: ADAPTCalculator, output: Path) -> tuple[Candidate | None, str]:
    """Writes what relax.py writes; the candidate with its formation energy, or why there is none."""
    host, why_not = _host(job, model) if result.status == "converged" else (None, "")
    summary = results.SummaryFile(output / "summary.csv")
    summary.start()
    results.write_result(job.name, result, output, job.atoms)
    summary.append(job.name, result)
    ranked = rank(converged_candidates(output, summary.lines()), host, DifferenceDoubt.by(model))
    write_ranking(output / "ranking.csv", ranked)
    results.write_as("vasp", output / f"{job.name}.vasp", result.atoms)
    write_report(output)
    return (ranked[0] if ranked else None), why_not


def _host(job: Job, model: ADAPTCalculator) -> tuple[Host | None, str]:
    """The perfect crystal with its energy, or why there is none that fits."""
    if job.host is None:
        return None, job.without_host
    if "energy" not in model.implemented_properties:
        return None, "the model has forces and no energy"
    try:
        Host.by(model, job.host, 0.0, {}).require_fits(job.atoms)  # which takes no time
        perfect = relax(job.host, model, FINISHED, MOST_STEPS).atoms
        host = Host.by(model, perfect, perfect.get_potential_energy(), {})
    except InputError as error:
        return None, str(error)
    return host, ""


def _warnings(watch: RelaxationWatch, result: RelaxationResult, late: bool) -> list[str]:
    """What to know before the result is believed."""
    said = [f"{MEANINGS.get(kind, kind)} ({line})." for kind, line in watch.findings.items()]
    if result.atom_doubt is not None and result.atom_doubt > UNUSUAL:
        said.append(
            f"An atom is less like those of the training than 99 of 100 of these (doubt {result.atom_doubt:.2f}), so "
            "the energy may be wrong by more than is said. Colour the atoms by doubt to see which."
        )
    if late:
        said.append(f"This page stops after {MOST_SECONDS} seconds; relax.py on your own machine goes on.")
    elif result.status == "not converged":
        said.append(f"It has not converged in {result.steps} steps; relax.py on your own machine goes on.")
    return said


def _conclusion(result: RelaxationResult, best: Candidate | None, why_not: str) -> str:
    """The answer first, then what it rests on."""
    text = f"{result.status.capitalize()} after {result.steps} steps, {result.fmax:.3f} eV/Å left. "
    text += f"{result.displaced_atoms} atoms moved by more than {DISPLACED} Å, "
    text += f"the furthest by {result.largest_displacement:.2f} Å."
    if best is not None and best.formation_energy is not None:
        doubt = best.formation_energy_uncertainty
        value = f"{best.formation_energy:.2f}" + plus_minus(doubt)
        return _headline("Formation energy", value, text)
    if why_not:
        text += f" No formation energy: {why_not}."
    if result.energy_change is None:
        return _headline("", "", text)
    return _headline("Energy from start to end", f"{result.energy_change:+.2f}", text)


def _headline(what: str, energy: str, text: str, style: str = "") -> str:
    number = energy.replace("-", "−")
    title = f"<h2><small>{what}</small>{number} eV</h2>" if energy else ""
    return f'<div class="answer {style}" role="status">{title}<p>{html.escape(text)}</p></div>'


def _listed(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(one)}</li>" for one in sentences)
    return f'<div class="warned"><h3>Before you believe it</h3><ul>{items}</ul></div>' if items else ""


# The page itself.
VIEWER = (
    (TEMPLATES / "viewer.js").read_text(encoding="utf-8")
    + """
const show = viewer(element), update = () => props.value && show(JSON.parse(props.value));
watch("value", update);
update();
"""
)
STYLE = (TEMPLATES / "drawings.css").read_text(encoding="utf-8")
COLOURS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto; }
.drawings { --text: var(--body-text-color); --soft: var(--body-text-color-subdued); --data: #1f5fa8; --mark: #c2188b;
  --line: var(--border-color-primary); --band: var(--background-fill-secondary); }
.dark .drawings { --data: #6aa9ef; --mark: #ff6ec7; }
.drawings canvas { aspect-ratio: auto; height: min(28rem, 60vh); }
.drawings .legend { font-size: .9rem; }
.drawings select { background-color: var(--band); color: inherit; width: auto; padding: .1rem 1.8rem .1rem .5rem; }
#headline, #warnings { padding: 0; }
.answer h2 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } .answer p { margin: 0; }
.answer h2 small { display: block; font-size: 1rem; font-weight: 400; }
.answer.bad p { color: #b3261e; font-weight: 600; } .dark .answer.bad p { color: #ff8a80; }
.warned { border-left: 4px solid #c77f00; padding: .1rem .8rem; } .warned h3 { margin: .2rem 0; font-size: 1rem; }
.warned ul { margin: 0; padding-left: 1.1rem; list-style: disc; }
"""
INTRODUCTION = """# Relax a point defect
Pick a defect in silicon, or drop your own structure, and press **Relax**. A force field trained on DFT moves the atoms
to their minimum in seconds, and says how sure it is.
"""
AFTERWARDS = """Model: {model}. Energies are those of the model, not of DFT: take what matters to DFT afterwards. The
± is one standard deviation. Limits of this page: {atoms} atoms, {size:g} MB, {steps} steps, {seconds} seconds; on your
own machine `relax.py` has none. Files are deleted after an hour.
"""


def page(examples: Sequence[Path] = ()) -> gr.Blocks:
    """The page; `examples` are files that are relaxed by one click."""
    with gr.Blocks(title="Relax a point defect", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                with gr.Tab("Defect in silicon"):
                    defect = gr.Radio(list(DEFECTS), value="Vacancy", label="Defect")
                    cells = gr.Radio(list(CELLS), value="64 atoms", label="Supercell")
                    relax_menu = gr.Button("Relax", variant="primary", elem_id="relax-menu")
                with gr.Tab("Your structure"):
                    file = gr.File(label="POSCAR, CIF or extxyz", type="filepath", height=130, elem_id="structure")
                    charge = gr.Number(None, label="Charge (e)", visible=calculator().reads_charge)
                    with gr.Accordion("Perfect crystal, for the formation energy", open=False):
                        gr.Markdown(
                            "In the same cell. Without it, it is found in the structure, if that is a crystal."
                        )
                        host = gr.File(label="POSCAR, CIF or extxyz", type="filepath", height=130, elem_id="host")
                    relax_file = gr.Button("Relax", variant="primary", elem_id="relax-file")
                    with gr.Row(visible=bool(examples)):
                        tries = [gr.Button(f"Try {one.name}", size="sm", min_width=90) for one in examples]
                stop = gr.Button("Stop", size="sm", visible=False, elem_id="stop")
                headline = gr.HTML(elem_id="headline")
                warnings = gr.HTML(elem_id="warnings", visible=False)
                with gr.Row():
                    downloads = [
                        gr.DownloadButton(f"⬇ {name}", visible=False, size="sm", min_width=90) for name in FILES
                    ]
            with gr.Column(scale=3, min_width=300):
                picture = {"css_template": STYLE, "elem_classes": "drawings"}
                view = gr.HTML(html_template=views_html(["end"]), js_on_load=VIEWER, elem_id="view", **picture)
                charts = gr.HTML(elem_id="charts", visible=False, **picture)
        gr.Markdown(
            AFTERWARDS.format(
                model=MODEL, atoms=MOST_ATOMS, size=MOST_BYTES / 1e6, steps=MOST_STEPS, seconds=MOST_SECONDS
            )
        )

        shown = [headline, view, charts, warnings, stop, *downloads]
        quiet: dict[str, Any] = {"outputs": shown, "show_progress": "hidden"}
        limited = quiet | {"concurrency_limit": AT_ONCE, "concurrency_id": "relaxations", "scroll_to_output": True}
        menu, files = [defect, cells], [file, host, charge]
        runs = [
            relax_menu.click(partial(_run, from_menu), menu, api_name="relax_menu", **limited),
            relax_file.click(partial(_run, from_files), files, api_name="relax_files", **limited),
            *(
                button.click(partial(_run, from_files, str(one), None, None), None, api_name=False, **limited)
                for button, one in zip(tries, examples, strict=True)
            ),
        ]
        blocks.load(partial(_look, from_menu), menu, **quiet)
        gr.on([defect.change, cells.change], partial(_look, from_menu), menu, cancels=runs, **quiet)
        gr.on([file.upload, host.upload], partial(_look, from_files), files, cancels=runs, **quiet)
        stop.click(
            lambda: (_headline("", "", "Stopped."), gr.update(visible=False)), None, [headline, stop], cancels=runs
        )
    return blocks.queue(max_size=MOST_WAITING)


def _look(make: Callable[..., Job], *inputs: Any) -> list[Any]:
    """The structure that would be relaxed."""
    try:
        return _values(start_of(make(*inputs)))
    except InputError as error:
        return _refused(error)


def _run(make: Callable[..., Job], *inputs: Any) -> Iterator[list[Any]]:
    """All pictures of a relaxation; Gradio copies files before they are removed here."""
    with TemporaryDirectory() as folder:
        try:
            for one in relaxation(make(*inputs), Path(folder)):
                yield _values(one)
        except InputError as error:
            yield _refused(error)


def _values(shown: Shown) -> list[Any]:
    """For the components of the page; those with nothing to say are hidden."""
    texts = [gr.update(value=text, visible=bool(text)) for text in (shown.charts, shown.warnings)]
    files = [gr.update(value=path, visible=True) for path in shown.files] or [gr.update(visible=False)] * len(FILES)
    return [shown.headline, shown.view or gr.skip(), *texts, gr.update(visible=shown.runs), *files]


def _refused(error: InputError) -> list[Any]:
    return _values(Shown(_headline("", "", str(error), "bad")))


def write_examples(folder: Path) -> list[Path]:
    """A file of each kind, as somebody may drop it."""
    files = {"POSCAR": ("vasp", "Divacancy"), "dumbbell.cif": ("cif", "⟨110⟩ split interstitial")}
    files |= {"vacancy.extxyz": ("extxyz", "Vacancy")}
    for name, (kind, defect) in files.items():
        ase.io.write(folder / name, from_menu(defect, "64 atoms").atoms, format=kind)
    return [folder / name for name in files]


def serve() -> None:
    torch.set_num_threads(1)  # of each relaxation
    needed = ["gradio", *(name for name in sys.modules if name.startswith("modeling_adapt."))]
    multiprocessing.set_forkserver_preload(needed)  # not __main__, which Python 3.12 leaves out
    forkserver.ensure_running()  # beside all that follows: nobody is to wait for it
    with TemporaryDirectory() as folder:
        page(write_examples(Path(folder))).launch(
            theme=gr.themes.Default(
                primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=COLOURS,
            max_file_size=MOST_BYTES,
            footer_links=[],
            ssr_mode=False,
            run_history=False,
        )


if __name__ == "__main__":
    serve()
