"""Phrases of README and the pages that quote a figure, written from their sources.

A page is free text. A phrase in it that quotes a measurement stands here a second time, with a
computed value in place of each number, so that a test sees when a file of results changes and the
page does not. `quotes.py` compares.
"""

from collections.abc import Callable
from math import erf
from statistics import median

import benchmark_tables as tables
import yaml
from benchmark_tables import MOLECULES, Row, read, select, short
from phrases_distributed import distributed
from phrases_gpu import gpu
from phrases_summary import readme, summary
from sources import (
    ROOT,
    domain_size,
    dynamics,
    labels,
    number,
    points,
    power,
    run,
    runs,
    step_of,
    training_minutes,
)


def index() -> list[str]:
    """Return the one number of the first page."""
    ships = select(read("shipped_model_errors"), molecule="all")
    return [f"energies are off by {number(ships, 'energy_mae'):.1f} meV on average"]


def evidence() -> list[str]:
    """Return what the tables of evidence are said to show."""
    few, many = (
        select(read("direction"), order=o, frames=f) for o, f in (("3", "180"), ("0", "730"))
    )
    fewer = select(read("direction"), order="0", frames="180")
    errors = ("energy_mae", "forces_rmse", "mm_forces_rmse")
    better = [number(many, key) / number(few, key) for key in errors]
    gain = max(1 - number(many, key) / number(fewer, key) for key in errors)
    cost = number(select(read("direction_time"), order="3"), "ratio") - 1
    far = [r for r in read("dimers_scan") if r["kind"] == "ion pair"][-1]
    off = 1e3 * abs(number(far, "electrostatics") - number(far, "reference"))
    mace, ours = (select(read("against_mace"), model=m, of="all") for m in ("MACE", "ours"))
    tuned = {
        f: select(read("finetune"), start="published, fine-tuned", frames=f)
        for f in ("60", "180", "730")
    }
    scratch = select(read("finetune"), start="from scratch", frames="60")
    best = min(number(row, "energy_mae") for row in read("finetune"))
    four = float(run("four solutes alone, 880 frames: energy MAE"))
    of = {(row["set"], row["model"]): row for row in read("shipped_model_beside")}
    unseen = [of["held-out molecules", m] for m in ("this model", "AMP-BMS fine-tuned")]
    size = (ROOT / "gnn" / "data" / "model.pt").stat().st_size
    reach = {
        (row["model"], row["frames are"]): row
        for row in read("error_sources")
        if row["molecule"] == "all"
    }
    beyond, mended = (reach[name, "beyond it"] for name in ("ships", "after"))
    longest = {row["variant"]: row for row in read("schedule") if row["steps"] == "4000"}
    muon, adam = longest["Muon, order 3"], longest["as it was"]
    anew = runs("shipped model anew")
    ships = select(read("shipped_model_errors"), molecule="all")
    snapshots = int(beyond["frames"]) + int(reach["ships", "within the trained extent"]["frames"])
    widths = [number(row, "parameters") for row in read("direction")]
    equal = tables.count(round(sum(widths) / len(widths), -4))
    theirs, default = (number(row, "parameters") for row in (mace, ours))
    proton = {row["what"]: number(row, "value") for row in read("proton_transfer")}
    return [
        f"{beyond['frames']} of {snapshots} reach beyond the trained extent, and there forces are "
        f"off by {number(beyond, 'forces_rmse'):.0f} meV/Å and those on charges by "
        f"{number(beyond, 'mm_forces_rmse'):.0f} meV/Å",
        f"{number(mended, 'forces_rmse'):.0f} and {number(mended, 'mm_forces_rmse'):.0f} meV/Å "
        "after one pass over them",
        f"after 4000 energies are off by {number(muon, 'energy_mae'):.1f} meV and forces by "
        f"{number(muon, 'forces_rmse'):.0f} meV/Å, with AdamW by {number(adam, 'energy_mae'):.1f} "
        f"meV and {number(adam, 'forces_rmse'):.0f} meV/Å",
        f"{anew['time of its training, half a core']} s beside other work, about half a core, made "
        f"{tables.count(int(anew['steps']))} steps",
        f"On the {anew['frames of dynamics held out']} held-out frames of dynamics its errors are "
        f"{anew['energy MAE']} meV (energies), {anew['QM forces RMSE']} meV/Å (forces) and "
        f"{anew['MM forces RMSE']} meV/Å (forces on charges); those of the model that ships are "
        f"{number(ships, 'energy_mae'):.1f}, {number(ships, 'forces_rmse'):.0f} and "
        f"{number(ships, 'mm_forces_rmse'):.1f}",
        f"The barrier is {proton['barrier, model']:.0f} meV (B3LYP: "
        f"{proton['barrier, reference']:.0f})",
        f"at the ends it does, by {proton['history, largest']:.0f} meV",
        f"Test frames are off by {proton['test energy MAE']:.1f} meV and "
        f"{proton['test force RMSE']:.0f} meV/Å",
        f"so that all have {equal} parameters, {few['steps']} steps each",
        f"({tables.count(round(theirs, -3))} parameters) and the schedule of its documentation; "
        f"ours with its default settings ({tables.count(round(default, -3))})",
        f"states of order 3, {run('shipped model: parameters')} parameters",
        f"order 3 has errors {min(better):.1f} to {max(better):.1f} times smaller than order 0 "
        f"trained on 730 frames, while a training step costs {100 * cost:.0f} % more",
        f"Order 0 improves by {100 * gain:.0f} % at most from 180 to 730 frames",
        *embeddings(),
        *boxes(),
        f"the energy of the ion pair at {number(far, 'distance'):g} Å, "
        f"{short(far['reference'])} eV, comes out to {off:.2f} meV",
        f"ours takes {number(ours, 'steps') / number(mace, 'steps'):.1f} times as many steps",
        f"their energies are off by {number(tuned['60'], 'energy_mae'):.1f} meV, those of a model "
        f"from scratch by {number(scratch, 'energy_mae'):.0f} meV",
        f"within {tuned['730']['steps']} steps ({number(tuned['730'], 'energy_mae'):.1f} meV with "
        "730)",
        f"took {tables.count(run('four solutes alone, 880 frames: steps'))}, and its error of "
        f"{four:.1f} meV is {best / four:.1f} times smaller than the best of this table",
        "fine-tuned on the same frames for "
        f"{run('AMP-BMS fine-tuned on the shipped frames: time of its training')} minutes",
        "on molecules that neither was trained on it is off by "
        "{:.0f} meV and {:.0f} meV/Å, ours by {:.0f} meV and {:.0f} meV/Å".format(
            *(
                number(row, key)
                for row in unseen[::-1]
                for key in ("energy_constant_mae", "forces_rmse")
            )
        ),
        f"{training_minutes()} minutes on one core that others used too",
        *hot(),
        f"({size / 1e6:.1f} MB)",
    ]


def hot() -> list[str]:
    """Return what became of the molecules in hot dynamics."""
    rows = read("hot_runs")
    held = {row["molecule"] for row in read("shipped_model_unseen")} & {r["molecule"] for r in rows}
    often = max(number(row, "novel") for row in rows if row["molecule"] not in held)
    whole = sum(row["end"] == "whole" for row in rows)
    assert all(number(row, "novel") == 100 for row in rows if row["molecule"] in held)
    return [
        f"{whole} of {len(rows)} stay whole",
        f"at no more than {often:.1f} % of them",
    ]


def boxes() -> list[str]:
    """Return what boxes eight times as large are said to show."""
    rows = read("periodic_boxes")

    def off(model: str, box: str, ions: str, quantity: str = "energy") -> float:
        return number(select(rows, model=model, box=box, ions=ions), f"{quantity}_rmse")

    def waves(model: str) -> str:
        found = off(model, "large", "longitudinal"), off(model, "small", "waves")
        return f"{found[0]:.1f} ({found[1]:.1f})"

    def forces(model: str) -> str:
        found = (off(model, box, "random", "forces") for box in ("small", "large"))
        return "from {:.0f} to {:.0f}".format(*found)

    given = {"box": "large", "wave": "longitudinal", "amplitude": "0.2"}
    wave = select(read("periodic_boxes_waves"), **given)
    costs = [f"{float(wave[name]):.1f}" for name in ("reference", *tables.BOXES)]
    across = [off(model, "large", "transverse") for model in tables.BOXES]
    return [
        f"the local model is off by {waves('local')} meV per atom, with electrostatics it is "
        f"{waves('electrostatics')}, with long range {waves('long-range')}",
        f"go {forces('local')} meV/Å without it, {forces('electrostatics')} with electrostatics "
        f"and {forces('long-range')} with long range",
        "costs {} meV per atom, in the local model {}, in the other two {} and {}".format(*costs),
        f"off by {min(across):.0f} to {max(across):.0f} meV per atom",
        f"off by {waves('narrow')} meV per atom in the same waves",
    ]


def embeddings() -> list[str]:
    """Return what five ways to treat surroundings are said to show."""
    rows = {(r["molecule"], r["of"], r["way"]): r for r in read("surroundings")}

    def ratio(worse: str, better: str, column: str, *of: str) -> float:
        return number(rows[*of, worse], column) / number(rows[*of, better], column)

    energy = {m: ratio("mechanical", "electrostatics", "energy_mae", m, m) for m in MOLECULES}
    acid = energy.pop("acoh")
    single = {m: ratio("electrostatics", "both", "mm_forces_rmse", m, m) for m in MOLECULES}
    every = [ratio("electrostatics", "both", "mm_forces_rmse", "all", m) for m in MOLECULES]
    both, only = (
        number(rows["all", "all", way], "forces_rmse") for way in ("both", "electrostatics")
    )
    return [
        f"energy errors {min(energy.values()):.1f} to {max(energy.values()):.1f} times smaller "
        f"than fixed charges (*mechanical*), for the models of one molecule; acetic acid is the "
        f"exception ({acid:.1f} times)",
        f"{single['meoh']:.1f} (methanol), {single['mam']:.1f} (methylammonium), "
        f"{single['oac']:.1f} (acetate) and {single['acoh']:.1f} times (acetic acid) smaller in "
        f"models of one molecule, and {min(every):.1f} to {max(every):.1f} times in the model of "
        "all",
        f"the QM forces get worse ({both:.0f} against {only:.0f} meV/Å)",
    ]


def fmm() -> list[str]:
    """Return where the fast multipole method pays."""
    share = [
        points(n, asked) / points(n, "0.0", "direct")
        for asked in ("0.001", "1e-06")
        for n in (3000, 10000)
    ]
    return [
        f"at 1e-3 they take {share[0]:.2f} of the time of the direct sum with 3000 charges and "
        f"{share[1]:.2f} with 10 000; at 1e-6 {share[2]:.2f} and {share[3]:.2f}",
    ]


def howto_tolerance() -> list[str]:
    """Return what a digit costs."""
    rows = [r for r in read("fmm_bench") if r["part"] == "tolerance" and r["program"] == "anisole"]
    digits = len(rows) - 1
    cost = (number(rows[-1], "seconds") / number(rows[0], "seconds")) ** (1 / digits) - 1
    return [f"Ten times the accuracy costs about {100 * cost:.0f} % more time"]


def howto_train() -> list[str]:
    """Return what to expect of a first training."""
    rows = [select(read("direction"), order=k, frames="180") for k in ("2", "3")]
    least, most = sorted(number(row, "energy_mae") for row in rows)
    begun, energy, forces = first()
    return [
        f"energies to {least:.0f} to {most:.0f} meV after {rows[0]['steps']} steps",
        f"errors on {begun['tested']} frames of other runs are {energy} (energy, MAE) and {forces} "
        f"(forces, RMSE) after {begun['steps']} steps, which took {begun['seconds']} s of one core",
    ]


def howto_hosts() -> list[str]:
    """Return how fast frames come from files, beside training."""
    arrays, ready, trained = (
        tables.count(round(number(select(read("hosts"), what=what, processes="1"), column), -2))
        for what in ("hdf5", "read", "train")
        for column in ("frames_per_second",)
    )
    return [
        f"one process gets arrays at {arrays} frames/s, and frames ready for a batch at {ready}, "
        f"where it trains on {trained} frames/s"
    ]


def first() -> tuple[Row, str, str]:
    """Return the row of a first training from published weights, and its errors."""
    (row,) = read("start_by_name")
    return row, f"{number(row, 'energy_mae'):.1f} meV", f"{number(row, 'forces_rmse'):.0f} meV/Å"


def getting_started() -> list[str]:
    """Return what 60 frames are good for."""
    begun, energy, forces = first()
    return [
        f"With {begun['frames']} frames of four small molecules, errors on other runs are {energy} "
        f"and {forces} after {begun['seconds']} s of one core"
    ]


def md() -> list[str]:
    """Return the speed of molecular dynamics."""
    periodic, cutoff = ways = [step_of(kind) for kind in ("periodic", "cutoff")]
    rows = [[of[part] for of in ways] for part in ("force field alone, a step", "model")]
    sums = [sum(of.get(part, 0.0) for part in OF_IMAGES) for of in ways]
    around = [of["all around the model"] - images for of, images in zip(ways, sums, strict=True)]
    rows += [sums, around, [of["call from OpenMM"] for of in ways]]
    rest = [of["a step"] - sum(parts) for of, *parts in zip(ways, *rows, strict=True)]
    of_models = {
        (row["model"], row["atoms"]): row
        for row in read("model_arithmetic")
        if row["threads"] == "1"
    }
    small = of_models.pop(("shipped", "6"))
    large = [100 * number(row, "fraction") for row in of_models.values()]
    return [
        f"takes {periodic['a step']:.1f} ms at best, {periodic['a step over the force field']:.1f} "
        f"times what the force field alone takes; that is {nanoseconds(periodic['a step']):.1f} ns "
        f"a day. With `--electrostatics cutoff` it takes {cutoff['a step']:.1f} ms, "
        f"{cutoff['a step over the force field']:.1f} times the force field and "
        f"{nanoseconds(cutoff['a step']):.1f} ns a day",
        *(f"| {' | '.join(f'{ms:.1f}' if ms else '–' for ms in row)} |\n" for row in (*rows, rest)),
        f"takes {number(small, 'passes_ms'):.1f} ms by itself (within a step others have filled "
        f"the caches), of which multiplications would take {100 * number(small, 'fraction'):.0f} %",
        f"reach {min(large):.0f} to {max(large):.0f} % of their arithmetic",
    ]


OF_IMAGES = "field of all images", "own images", "reaction"


def md_electrostatics() -> list[str]:
    """Return drift, temperatures and the first neighbours in molecular dynamics."""
    drift = power(dynamics("NVE drift of the energy"))
    error = power(dynamics("NVE drift, standard error"))
    near = {
        name: max(
            (r for r in read("md_rdf") if r["run"] == name and number(r, "r") < 2.3),
            key=lambda r: number(r, "H(O)–O(water)"),
        )["r"]
        for name in tables.values(read("md_rdf"), "run")
    }
    model, classical = (f"{float(r):.1f}" for r in near.values())
    return [
        f"float64 | {drift} ± {error} kT per degree of freedom and ns",
        f"(kinetic energy: {dynamics('NVE kinetic energy, standard deviation'):.0f} kJ/mol) | "
        f"{dynamics('NVE total energy, standard deviation')} kJ/mol",
        f"mean temperature | {dynamics('QM/MM, 300 K: mean temperature')} K (classical: "
        f"{dynamics('classical (GAFF2), 300 K: mean temperature')} K)",
        f"about {model} Å long and hardly ever broken; with the force field it is about "
        f"{classical} Å long",
        *periodic_md(),
    ]


def hydration() -> list[str]:
    """Return the free energy of hydration of methanol and its parts."""
    rows = {row["quantity"]: row for row in read("hydration")}

    def energy(name: str, digits: int = 1) -> str:
        return f"{number(rows[name], 'value'):.{digits}f}".replace("-", "−")

    whole, charges, cores = (
        f"{energy(name)} ± {number(rows[name], 'error'):.1f}"
        for name in ("hydration free energy", "of it charges", "of it cores")
    )
    picoseconds = number(rows["all windows"], "value")
    windows, far = rows["windows"]["value"], "Onsager's estimate of what is beyond the cutoff"
    return [
        f"{whole} kcal/mol (experiment: −5.1)",
        f"{windows} windows, {picoseconds:.0f} ps in all",
        f"fading charges make {charges}, vanishing cores {cores} kcal/mol",
        f"puts at {energy(far, 2)} kcal/mol for the "
        f"{number(rows['dipole in water'], 'value'):.1f} D",
    ]


def protein_zone() -> list[str]:
    """Return what a run with a whole protein as the zone did, and a step of it costs."""
    rows = read("protein_zone")

    def value(name: str, threads: str = "1") -> float:
        return number(select(rows, threads=threads, quantity=name), "value")

    nve, nvt = "NVE float32, 0.5 fs: ", "NVT, 1.5 fs: "
    parts = {
        "model and own images, energy and gradient": "its own images",
        "edges, batch, field of all images": "atoms, edges",
        "reaction on all charges": "all charges",
        "places, charges near, weights": "near, weights",
        "evaluation, all of it": "of the zone",
        "force field of a step, without the zone's own": "force field",
    }
    return [
        f"mean temperature of {value(nvt + 'mean temperature'):.1f} K and took "
        f"{value(nvt + 'a step, median'):.0f} ms a step",
        f"kept the total energy to {value(nve + 'total energy, standard deviation'):.2f} kJ/mol "
        f"(kinetic energy: {value(nve + 'kinetic energy, standard deviation'):.0f} kJ/mol)",
        *(f"{end} | {value(name):.1f} | {value(name, '2'):.1f} |" for name, end in parts.items()),
    ]


def link_atoms() -> list[str]:
    """Return the rows of the tables about cut bonds."""
    rows, found = read("link_atoms_accuracy"), []
    for zone, called in (("ala", "alanine"), ("ser", "serine")):
        for scheme in tables.values(rows, "scheme"):
            cells = []
            for model, level in (
                ("amp-bms", "wB97X/def2-TZVP"),
                ("amp-bms", "B3LYP/6-31G*"),
                ("shipped", "B3LYP/6-31G*"),
            ):
                row = select(rows, zone=zone, scheme=scheme, model=model, level=level)
                force, charges = (
                    number(row, what)
                    for what in ("force_rmse_mev_angstrom", "embedding_rmse_kj_mol")
                )
                cells.append(f"{force:.0f} / {charges:.1f}")
            found.append(f'| {called}, `"{scheme}"` | {" | ".join(cells)} |')
    rows = read("link_atoms_torsion")
    for called in tables.values(rows, "torsion"):
        of = {row["energy"]: row for row in rows if row["torsion"] == called}
        off = [
            f"{number(of[kind], 'rms_from_whole_kj_mol'):.1f}"
            for kind in ("shift", "rcd", "delete", "shift, B3LYP/6-31G*", "force field")
        ]
        whole = number(of["whole molecule"], "range_kj_mol")
        found.append(f"| {called} | {whole:.0f} | {' | '.join(off)} |")
    for row in read("link_atoms_energy"):
        values = (number(row, name) for name in ("energy_std_kj_mol", "kinetic_std_kj_mol"))
        drift = number(row, "drift_kt_per_dof_ns"), number(row, "drift_error")
        found.append(
            f"| {row['surroundings']}, {row['ps']} ps | {' | '.join(map(short, values))} | "
            f"{short(drift[0], 1)} ± {short(drift[1], 1)} |"
        )
    return found


def periodic_md() -> list[str]:
    """Return what periodic electrostatics of a zone gives for ions, and costs."""
    rows = read("periodic_qmmm")
    lines = []
    for edge in dict.fromkeys(row["box_angstrom"] for row in rows if row["part"] == "ions"):
        cells = [
            f"{number(row, 'value'):.2f} ± {number(row, 'error'):.2f}".replace("-", "−")
            for ion in ("oac", "mam")
            for kind in ("all charges and images", "all charges, own images left out", "cutoff")
            for row in [select(rows, system=ion, box_angstrom=edge, quantity=f"solvation, {kind}")]
        ]
        lines.append(f"| {float(edge):.0f} | {' | '.join(cells)} |")
    cost = {(row["system"], row["quantity"]): row["value"] for row in rows if row["part"] == "cost"}
    large, step = "600 atoms, 13000 charges", step_of("periodic")
    images = sum(step[part] for part in OF_IMAGES)
    sums = [float(cost[large, what]) for what in ("field", "own images", "reaction")]
    drift = next(row for row in rows if row["part"] == "drift" and row["unit"] == "kT/dof/ns")
    spread = next(row for row in rows if row["part"] == "drift" and row["unit"] == "kJ/mol")
    at_bar = {row["quantity"]: row for row in rows if row["part"] == "density"}
    densities = [
        f"{number(at_bar[kind], 'value'):.3f} ± {number(at_bar[kind], 'error'):.3f}"
        for kind in ("qmmm", "classical")
    ]
    value, error = (power(number(drift, column)) for column in ("value", "error"))
    return [
        *lines,
        f"The sums take {100 * images / step['a step']:.0f} % of a step of methanol in 368 waters "
        f"({step['a step']:.1f} ms, and {step_of('cutoff')['a step']:.1f} ms with a cutoff",
        f"for 600 atoms among 13 000 charges they take {sum(sums):.0f} ms",
        f"drifts by {value} ± {error} kT per degree of freedom and ns",
        f"(standard deviation {spread['value']} kJ/mol)",
        f"density is {densities[0]} g/ml with the model and {densities[1]} g/ml with",
    ]


def nanoseconds(milliseconds: float, timestep: float = 0.5) -> float:
    """Return the simulated time of a day in ns, for the time of a step and its length in fs."""
    return 86400e3 / milliseconds * timestep * 1e-6


def ase() -> list[str]:
    """Return speed, conservation and vibrations of methanol with ASE."""
    of = {row["quantity"]: row["value"] for row in read("single_runs")}
    where = ("vacuum", "405 charges")
    ours, bms = (
        [of[f"AMPCalculator, methanol in {w}: {m}"] for w in where]
        for m in ("shipped model", "AMP-BMS")
    )
    alone = [of[f"AMPCalculator, methanol in {w}, energy alone: shipped model"] for w in where]
    run_of = "ASE, methanol in vacuum, 5 ps of NVE at 0.5 fs"
    modes = [
        (row["mode"].replace("CH3", "CH₃"), number(row, "reference"), number(row, "model"))
        for row in read("vibrations")
    ]
    off, most = max((abs(b - a), mode) for mode, a, b in modes)
    share, largest = max((abs(b - a) / a, mode) for mode, a, b in modes)
    return [
        f"The calculator adds {of['AMPCalculator: its own share of a call']} ms",
        f"{ours[0]} ms in vacuum and {ours[1]} ms in 405 charges by the shipped model, {bms[0]} "
        f"and {bms[1]} ms by AMP-BMS. An energy alone is {alone[0]} and {alone[1]} ms",
        f"a standard deviation of {of[f'{run_of}: standard deviation of the energy']} meV and "
        f"drifted by {of[f'{run_of}: drift']} kT per degree",
        f"The largest errors are {off:.0f} 1/cm ({most}) and {100 * share:.0f} % ({largest}); the "
        f"dipole at the minimum is {of['methanol at its minimum: dipole, shipped model']} D "
        f"({of['methanol at its minimum: dipole, B3LYP/6-31G*']} D)",
        f"dipole {of['methanol at its minimum: dipole, AMP-BMS']} D, wavenumbers "
        f"{of['methanol at its minimum: wavenumbers, AMP-BMS']} 1/cm",
    ]


def data() -> list[str]:
    """Return the noise and size of the shipped labels, and what new ones cost."""
    of, cost = labels(), runs("data generate")
    net = f"up to {max(of['net']):.0e} eV/Å, typically {median(of['net']):.0e}".replace("e-0", "e-")
    molecules = ROOT / "benchmarks" / "molecules.yaml"
    limits = yaml.safe_load(molecules.read_text(encoding="utf-8"))
    return [
        f"closer than {limits['nearest_charge']} Å",
        f"so are forces above {limits['largest_force']} eV/Å",
        f"the net force of a frame is {net}",
        f"On average ions gain {min(of['ions']):.1f} to {max(of['ions']):.1f} eV from the water, "
        f"neutral molecules {min(of['neutral']):.1f} to {max(of['neutral']):.1f} eV",
        f"{cost['one frame of methanol, one core']} s of one core for methanol and "
        f"{cost['one frame of acetate, one core']} s for acetate",
        f"some {cost['dynamics before the first frame']} s before its first frame",
        f"took {cost['8 frames of methanol with MBIS, two processes']} s",
        f"without multipoles {cost['8 frames of water without MBIS, two processes']} s",
        f"shifted by {fitting('shift', 1)} meV, and these shifts scatter by {fitting('spread', 2)} "
        f"meV from frame to frame; forces change by {fitting('forces', 1)} meV/Å",
        f"takes {fitting('ratio', 1)} times as long",
    ]


def fitting(column: str, decimals: int) -> str:
    """Return the range over molecules of what density fitting changes."""
    found = sorted(abs(number(row, column)) for row in read("density_fitting"))
    return f"{found[0]:.{decimals}f} to {found[-1]:.{decimals}f}"


def export() -> list[str]:
    """Return what compiling a training step brings and costs."""
    rows = {row["way"]: row for row in read("compiled_training")}
    ours, passes, torch, compiled = (
        number(rows[way], "step_ms")
        for way in ("operators in Numba", "compiled passes", "eager torch", "traced and compiled")
    )
    names = {
        "compiled passes": "as `anisole train` takes them",
        "operators in Numba": "compiled by torch",
        "eager torch": "plain torch",
        "traced, not compiled": "traced",
        "traced and compiled": "traced and compiled",
    }
    return [
        *(
            f"{name} | {number(rows[way], 'step_ms'):.1f} | {number(rows[way], 'least_ms'):.1f} |"
            for way, name in names.items()
        ),
        f"{ours / passes:.1f} times faster than autograd's graph of our operators",
        f"{compiled / passes:.1f} times than what torch's compiler makes of a traced step",
        f"{torch / passes:.0f} times than plain torch",
        f"({run('compiled training: first step, nothing cached, busy machine')} s on a busy "
        f"machine; {number(rows['traced and compiled'], 'first_s'):.0f} s from the compiler's",
    ]


def model() -> list[str]:
    """Return what the smeared field is worth."""
    way = [
        number(select(read("smearing"), smearing=s, on="training"), "energy_mae")
        for s in ("none", "1.2")
    ]
    return [
        f"energies wrong by {way[0]:.0f} meV on training frames without it, by {way[1]:.0f} meV"
    ]


def published() -> list[str]:
    """Return agreement with the original AMP-BMS, and speed beside it."""
    from gnn.published.by_name import KNOWN

    same = {
        w: run(f"AMP-BMS against the original: {w}") for w in ("energies", "forces", "multipoles")
    }
    new = [number(row, "training, energy and forces") for row in read("published_speed")]
    old = [row["value"] for row in read("single_runs") if "original code" in row["quantity"]]
    ratio = [float(a) / b for a, b in zip(old, new, strict=True)]
    protein, threads = read("protein_step_parts")[0], read("protein_step")
    one, two, many = (select(threads, atoms="875", threads=n) for n in ("1", "2", "16"))
    s66 = number(select(read("published_s66x8"), scale="all"), "mae")
    return [
        f"fetches the file of its authors ({KNOWN['amp-bms'].weights.megabytes}, from",
        f"within {same['energies']} kJ/mol, forces within {same['forces']} kJ/mol/Å, multipoles "
        f"within {same['multipoles']}",
        f"agree to {same['energies']} kJ/mol; their mean absolute error against the reference "
        f"energies is {s66:.2f} kJ/mol",
        f"{min(ratio):.1f} to {max(ratio):.1f} times shorter than what the original program took "
        f"on a comparable core ({old[0]}, {old[1]} and {old[2]} ms",
        f"matrix products at {protein['GFlop/s']} GFlop/s would take "
        f"{float(protein['limit']):.0f} of "
        f"the {float(protein['all']):.0f} ms",
        f"a step takes {number(one, 'wall'):.0f} ms on one thread, {number(two, 'wall'):.0f} ms on "
        f"two, and by reckoning {number(many, 'sum'):.1f} ms on 16 free cores",
    ]


def theory_fmm() -> list[str]:
    """Return how fast translations are."""
    rows = {(row["dtype"], row["degree"]): row for row in read("fmm_translations")}

    def gain(dtype: str, degree: int) -> str:
        return f"{number(rows[dtype, str(degree)], 'gain'):.1f} times"

    memory = [number(row, "memory") for row in rows.values()]
    return [
        f"it is {gain('float32', 10)} as fast at degree 10 in float32, {gain('float64', 14)} at "
        f"14, {gain('float64', 27)} at 27 and {gain('float64', 40)} at 40 in float64",
        f"{min(memory):.1f} to {max(memory):.0f} times less memory",
    ]


def theory_pairs() -> list[str]:
    """Return how fast near pairs in float32 are."""
    gains = [number(row, "gain") for row in read("fmm_near")]
    return [f"the near field is {min(gains):.1f} to {max(gains):.1f} times as fast"]


def training() -> list[str]:
    """Return what streaming costs and saves."""
    rows = {row["how"]: row for row in read("streaming")}
    memory, stream = rows["in memory"], rows["streamed"]
    ours = select(read("against_mace"), model="ours", of="all")
    gain = [number(row, "peak_mb") / 1e3 for row in (stream, memory)]
    one, two = (
        [100 * number(row, "after") for row in read("committee") if row["expected"] == share]
        for share in ("0.6827", "0.9545")
    )
    return [
        f"so that one sigma holds {100 * erf(0.5**0.5):.0f} % of them",
        f"One sigma, scaled, holds {min(one):.0f} to {max(one):.0f} % of the errors on other runs",
        f"two sigma hold only {min(two):.0f} to {max(two):.0f} % instead of 95 %",
        f"Of {tables.count(memory['frames'])} methanol frames ({memory['file_mb']} MB compressed)",
        f"takes {gain[0]:.2f} GB instead of {gain[1]:.2f} GB",
        f"{number(stream, 'ms_per_batch'):.1f} ms a batch instead of "
        f"{number(memory, 'ms_per_batch'):.2f} ms, beside a training step of some "
        f"{10 * round(number(ours, 'step_ms') / 10)} ms",
    ]


def doctor() -> list[str]:
    """Return the limits of the doctor's checks, from its modules."""
    from gnn.doctor import consistency, dynamics, labelled, patient, scans, separation, smoothness

    def digits(value: float) -> str:
        return f"{value:.0e}".replace("e-0", "e-")

    exact, rounded = (consistency.INVARIANT[name] for name in ("float64", "float32"))
    return [
        f"| {scans.HOLE:g} eV |",
        f"{scans._SHORTER:g} times their size",
        f"| {digits(separation.ADDS_UP)} eV |",
        f"| {dynamics.DRIFT:g} meV per atom and ps; {dynamics.FLUCTUATION:g} meV per atom |",
        f"{digits(exact)}; {digits(rounded)} eV and eV/Å",
        f"| {digits(smoothness.JUMPS['curvature'])} eV/Å² |",
        f"| {digits(consistency.GRADIENT)} eV/Å |",
        f"| {digits(consistency.BALANCE)} eV/Å, eV |",
        f"NOTE beyond 1 kcal/mol; {labelled.FORCES:g} %",
        f"NOTE beyond {labelled.FLAGGED:g} %",
        f"({scans.HOLE:g} eV are left to walls",
        f"{patient._CONTACT:g} times the sum of the covalent radii",
    ]


def trust() -> list[str]:
    """Return what novelty is said to tell."""
    rows = {row["frames"]: row for row in read("novelty")}
    chosen_on, test, far, dry = (
        rows[name]
        for name in ("validation runs", "test runs", "hot, stretched, unseen", "without water")
    )
    return [
        f"Of {test['number']} frames of test runs {number(test, 'flagged'):.1f} % are flagged, of "
        f"{chosen_on['number']} of validation runs {number(chosen_on, 'flagged'):.1f} %",
        f"the area under the curve is {number(far, 'roc area'):.2f} on hot, stretched and unseen "
        f"frames ({far['number']}, of which {number(far, 'wrong'):.0f} % are wrong)",
        f"{number(far, 'wrong and not flagged'):.0f} % of them are wrong without being flagged",
        f"an area of {number(far, 'committee: roc area of spread'):.2f}, its novelty with "
        f"{number(far, 'committee: roc area of novelty'):.2f}",
        f"Without water {number(dry, 'flagged'):.0f} % of frames are flagged and "
        f"{number(dry, 'wrong'):.0f} % are wrong",
        f"it takes {domain_size()} kB",
    ]


def questions() -> list[str]:
    """Return cost of a step, and errors against the number of frames."""
    speed = {row["atoms"]: row for row in read("published_speed")}
    large = {
        row["n"]: number(row, "again")
        for row in read("surroundings_scaling")
        if row["method"] == "direct"
    }
    small = select(read("model_arithmetic"), model="shipped", threads="1")
    times = {n: number(row, "training, energy and forces") for n, row in speed.items()}
    frames = ("60", "180", "730")
    ways = (("direction", "order", "3"), ("finetune", "start", "published, fine-tuned"))
    errors = [
        [number(select(read(name), **{key: way}, frames=n), "energy_mae") for n in frames]
        for name, key, way in ways
    ]
    return [
        f"| {number(small, 'passes_ms'):.1f} ms | "
        f"{nanoseconds(step_of('periodic')['a step']):.1f} ns a day, force field and all |",
        *(
            f"| {n} atoms in {row['charges']} charges | AMP-BMS | {times[n]:.1f} ms | "
            f"{nanoseconds(times[n]):.1f} ns a day, the model alone |"
            for n, row in speed.items()
        ),
        f"1000 charges take {1e3 * large['1000']:.0f} ms, 100 000 charges "
        f"{1e3 * large['100000']:.0f} ms and 10⁶ charges {1e3 * large['1000000']:.0f} ms",
        f"drifts by {power(abs(dynamics('NVE drift of the energy')))} kT per degree of freedom",
        *(f"| {n} | {a:.1f} meV | {b:.1f} meV |" for n, a, b in zip(frames, *errors, strict=True)),
        f"for {tables.count(run('four solutes alone, 880 frames: steps'))} steps was off by "
        f"{run('four solutes alone, 880 frames: energy MAE')} meV",
    ]


PHRASES: dict[str, Callable[[], list[str]]] = {
    "README": readme,
    "summary": summary,
    "index": index,
    "evidence": evidence,
    "distributed": distributed,
    "fmm": fmm,
    "gpu": gpu,
    "md": md,
    "md_electrostatics": md_electrostatics,
    "md_sampling": hydration,
    "md_zones": lambda: [*link_atoms(), *protein_zone()],
    "ase": ase,
    "doctor": doctor,
    "howto_tolerance": howto_tolerance,
    "howto_hosts": howto_hosts,
    "howto_train": howto_train,
    "getting_started": getting_started,
    "data": data,
    "export": export,
    "model": model,
    "published": published,
    "questions": questions,
    "theory_fmm": theory_fmm,
    "theory_pairs": theory_pairs,
    "training": training,
    "trust": trust,
}
