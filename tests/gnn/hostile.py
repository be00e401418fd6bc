"""Files made by an enemy, small on disk, and what is to be said of each.

Run as a program, with little memory, it reads each of them and prints what came.
"""

import io
import json
import pickle
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

UNITS = {"energy_unit": "eV", "length_unit": "Å", "charge_unit": "e"}
TERABYTE = 1 << 40


class Payload:
    """Runs, where a pickle is loaded, and leaves a file behind."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return open, (str(self.sentinel), "w")


# --- HDF5 -----------------------------------------------------------------------------------------


def hdf5(change):
    """Return what makes a file of one molecule, changed by ``change(file, group, path)``."""

    def make(path):
        import h5py

        with h5py.File(path, "w") as file:
            file.attrs.update(UNITS)
            group = file.create_group("water")
            group.attrs["charge"] = 0
            group["numbers"] = [8, 1, 1]
            group["positions"] = np.array([[[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6]]])
            change(file, group, path)

    return make


def _replaced(name, shape, **options):
    def change(file, group, path):
        if name in group:
            del group[name]
        group.create_dataset(name, shape, dtype="f8", **options)

    return change


def _secret(path):
    import h5py

    with h5py.File(path.with_name("secret.bin"), "w") as file:
        file["energy"] = [42.0]
    return path.with_name("secret.bin").name


def _external_link(file, group, path):
    import h5py

    group["energy"] = h5py.ExternalLink(_secret(path), "/energy")


def _group_of_another_file(file, group, path):
    import h5py

    file["other"] = h5py.ExternalLink(_secret(path), "/")


def _soft_link(file, group, path):
    import h5py

    group["energy"] = h5py.SoftLink("/water/positions")


def _virtual(file, group, path):
    import h5py

    layout = h5py.VirtualLayout((1,), "f8")
    layout[:] = h5py.VirtualSource(str(path.with_name(_secret(path))), "energy", (1,))
    group.create_virtual_dataset("energy", layout)


def _raw_bytes_of_another_file(file, group, path):
    path.with_name("secret.bin").write_bytes(bytes(8))
    group.create_dataset("energy", (1,), "f8", external=[(str(path.with_name("secret.bin")), 0, 8)])


def _references(file, group, path):
    import h5py

    group.create_dataset("energy", (1,), h5py.ref_dtype)[0] = group.ref


def _circle(file, group, path):
    group["vacuum"] = group


def _large_attribute(file, group, path):
    file.create_group("other", track_order=True).attrs.create("charge", np.zeros(1 << 18))


def _many_texts(file, group, path):
    import h5py

    group.attrs.create("name", np.array(["a"] * 3000, dtype=object), dtype=h5py.string_dtype())


def _chunk_that_unfolds(file, group, path):
    """A chunk of 8 bytes by its header, whose stored bytes unfold to gigabytes."""
    packer = zlib.compressobj(9)
    first, other = (
        packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    packed = first + 200 * other
    dataset = group.create_dataset("energy", (1,), "f8", chunks=(1,), compression="gzip")
    dataset.id.write_direct_chunk((0,), packed)


def _folded_twice(file, group, path):
    import h5py

    pipeline = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    pipeline.set_chunk((1,))
    pipeline.set_deflate(9)
    pipeline.set_deflate(9)
    space = h5py.h5s.create_simple((1,))
    h5py.h5d.create(group.id, b"energy", h5py.h5t.IEEE_F64LE, space, pipeline)


def _unsigned_pointer(file, group, path):
    group["mm_ptr"] = np.array([5, 3], dtype=np.uint64)
    group["mm_positions"], group["mm_charges"] = np.zeros((3, 3)), np.zeros(3)


HDF5 = {
    "external link": (_external_link, "energy is a link to another place or file"),
    "external group": (_group_of_another_file, "other is a link to another place or file"),
    "soft link": (_soft_link, "energy is a link to another place or file"),
    "virtual": (_virtual, "takes its data from elsewhere"),
    "raw": (_raw_bytes_of_another_file, "takes its data from elsewhere"),
    "references": (_references, "is of type object, expected numbers or texts"),
    "terabytes": (_replaced("energy", (TERABYTE,)), "asks for 8.8e.12 bytes of memory"),
    "rows": (_replaced("positions", (1 << 22, 0, 3)), "asks for 4.19e.09 bytes of memory"),
    "zeros": (
        _replaced("forces", (1 << 36, 3), chunks=(1 << 16, 3), compression="gzip"),
        "asks for 1.65e.12 bytes",
    ),
    "chunk": (
        _replaced("energy", (1,), chunks=(1 << 28,), maxshape=(None,), compression="gzip"),
        "has chunks of 2147483648 bytes",
    ),
    "unfolds": (_chunk_that_unfolds, "unfolds to more than its 8 bytes"),
    "twice": (_folded_twice, "is compressed twice"),
    "attribute": (_large_attribute, "'charge' of '/other' has 262144 values"),
    "texts": (_many_texts, "'name' of '/water' has 3000 values"),
    "circle": (_circle, ""),  # read once: labels of the group itself
    "pointer": (_unsigned_pointer, "mm_ptr must begin at 0 and never decrease"),
}

# --- NumPy, torch, YAML ---------------------------------------------------------------------------


def npz(header="", data=b"", name="state.npy"):
    """Return what makes an archive with one array of any header."""

    def make(path):
        text = (header + " " * (117 - len(header)) + "\n").encode()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("record.npy", _array(np.array("{}")))
            archive.writestr(
                name, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
            )

    return make


def _array(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _zip_bomb(path):
    """The directory of an archive says what its parts unfold to."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state.npy", _array(np.empty(0, np.uint8)))
        archive.infolist()[0].file_size = 1 << 31


def _npz_pickle(path):
    np.savez(path, record="{}", state=np.array([Payload(path.with_suffix(".ran"))], dtype=object))


def _bare_pickle(path):
    path.write_bytes(pickle.dumps(Payload(path.with_suffix(".ran"))))


def _floats(shape):
    return "{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + ", }"


NPZ = {
    "terabytes": (npz(_floats(f"({TERABYTE},)")), "which are 8796093022208 bytes, but holds 0"),
    "product": (npz(_floats(f"({1 << 32}, {1 << 32})")), "but holds 0"),
    "negative": (npz(_floats("(-1,)"), bytes(8)), "which are -8 bytes"),
    "call": (npz("{'descr': '<f8', 'fortran_order': False, 'shape': (exit(),)}"), "damaged"),
    "nested": (npz("(" * 110), "damaged"),
    "climbs": (npz("", b"", "../../climbed.npy"), "damaged"),
    "bomb": (_zip_bomb, "asks for 2.15e.09 bytes"),
    "pickle": (_npz_pickle, "holds objects of Python"),
    "bare pickle": (_bare_pickle, "is not an archive of arrays"),
}


def checkpoint(change):
    """Return what makes the checkpoint of the model that ships, changed by ``change(content)``."""

    def make(path):
        import torch

        from gnn.training.checkpoint import SHIPPED, load

        content = load(SHIPPED)
        change(content, path)
        torch.save(content, path)

    return make


def _set(place, value):
    def change(content, path):
        *ahead, last = place
        for key in ahead:
            content = content[key]
        content[last] = value

    return change


def _torch_bomb(path):
    """Records of a checkpoint are stored as they are; this one is compressed."""
    import torch

    buffer = io.BytesIO()
    torch.save({"format": "anisole-model", "x": torch.zeros(1 << 16)}, buffer)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in zipfile.ZipFile(buffer).infolist():
            archive.writestr(entry.filename, zipfile.ZipFile(buffer).read(entry))
        archive.getinfo(next(n for n in archive.namelist() if n.endswith("data/0"))).file_size = (
            1 << 31
        )


def _more_than_stored(content, path):
    """A tensor of a terabyte that repeats one number."""
    import torch

    key = next(iter(content["state_dict"]))
    content["state_dict"][key] = torch.zeros(1).expand(1 << 38)


def _laughs(content, path):
    value = ["ha"]
    for _ in range(40):
        value = [value] * 10
    content["config"]["method"] = value


def _not_finite(content, path):
    key = next(k for k in content["state_dict"] if k.endswith("weight"))
    content["state_dict"][key][0] = float("nan")


def _flipped(path):
    """One bit of a weight is another, as a bad disk makes it."""
    checkpoint(lambda content, path: None)(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _payload(content, path):
    content["config"]["method"] = Payload(path.with_suffix(".ran"))


TORCH = {
    "pickle": (_bare_pickle, "is not a checkpoint of anisole"),
    "payload": (checkpoint(_payload), "is not a checkpoint of anisole"),
    "bomb": (_torch_bomb, "asks for 2.15e.09 bytes"),
    "repeated": (checkpoint(_more_than_stored), "do not fit"),
    "width": (checkpoint(_set(("config", "network", "hidden"), 1 << 20)), "more weights"),
    "depth": (checkpoint(_set(("config", "steps"), 10_000)), "more weights"),
    "features": (checkpoint(_set(("config", "features"), 1 << 40)), "do not fit"),
    "order": (checkpoint(_set(("config", "order"), 10_000)), "do not fit"),
    "laughs": (checkpoint(_laughs), "with what references repeat"),
    "bit": (_flipped, "the checksum of"),
    "nan": (checkpoint(_not_finite), "are not finite"),
    "type": (checkpoint(_set(("dtype",), "load")), "do not fit"),
    "version": (checkpoint(_set(("version",), "5")), "expected version to be of type int"),
    "kind": (checkpoint(_set(("kind",), ["AMP"])), "do not fit"),
    "state": (checkpoint(_set(("state_dict", "x"), [1])), "do not fit"),
    "domain": (checkpoint(_set(("domains",), [{"a": 1}])), "do not fit"),
}


def text(content):
    """Return what makes a file of some text."""
    return lambda path: path.write_text(content, encoding="utf-8")


_LAUGHS = "a0: &a0 [ha]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
_MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 30)
)
YAML = {
    "code": (text("data: !!python/object/apply:os.system [exit 3]"), "not valid YAML"),
    "laughs": (text(_LAUGHS), "with what references repeat"),
    "merged": (text(_MERGED), "with what references repeat"),
    "itself": (text("a: &a [*a]"), "nested too deeply, or in itself"),
    "nested": (text("a: " + "[" * 5000), "nested too deeply"),
    "digits": (text("seed: " + "9" * 100_000), "not valid YAML"),
    "hexadecimal": (text("seed: 0x" + "f" * 100_000), "seed"),
    "sixties": (text("seed: 1" + ":59" * 5000), "seed"),
    "date": (text("seed: 2001-13-45"), "not valid YAML"),
    "infinite": (text("training: {learning_rate: .inf}"), "learning_rate"),
    "long": (text("# " + "x" * (1 << 20)), "expected settings of up to 1048576 bytes"),
    "binary": (lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "not valid YAML"),
}

# --- extended XYZ ---------------------------------------------------------------------------------


def xyz(comment, count="1", atoms="H 0 0 0\n"):
    """Return what makes a file of one frame."""
    return text(f"{count}\n{comment}\n{atoms}")


XYZ = {
    "atoms": (xyz("total_charge=1", "1000000000000"), "has fewer atoms than it says"),
    "digits": (xyz("total_charge=1", "9" * 5000), "Expected xyz header"),
    "columns": (
        xyz("Properties=species:S:1:pos:R:3:foo:R:1000000000 total_charge=1"),
        "names 1e.09 columns",
    ),
    "no columns": (xyz("Properties=species:S:1:pos:R:3:foo:R:-3"), "one or more each"),
    "long word": (xyz("a" * 200_000 + " b= c=1 total_charge=1"), ""),
    "quotes": (xyz("total_charge=1 b= " + '\\"' * 100_000), ""),
    "brackets": (xyz("total_charge=1 MM_positions=" + "[" * 50_000), "MM_positions"),
    "nested": (
        xyz(f'total_charge=1 MM_positions="{"[" * 50_000}" MM_charges="[1]"'), "MM_positions"
    ),
    "large number": (
        xyz(f'total_charge=1 MM_positions="[[0,0,1{"0" * 400}]]" MM_charges="[1]"'),
        "MM_positions",
    ),
    "not finite": (xyz("total_charge=1", atoms="H 0 0 1e999\n"), "expected finite numbers"),
    "names": (xyz("__class__=1 ../../x=2 numbers=3 positions=4 total_charge=1"), ""),
}  # fmt: skip

KINDS = {
    "hdf5": (".h5", {name: (hdf5(change), said) for name, (change, said) in HDF5.items()}),
    "npz": (".npz", NPZ),
    "torch": (".pt", TORCH),
    "yaml": (".yaml", YAML),
    "xyz": (".xyz", XYZ),
}


def read(kind, path):
    """Read a file as the package does."""
    from gnn.data import read_frames
    from gnn.engines.runs.checkpoint import read_checkpoint
    from gnn.training.checkpoint import load_model
    from gnn.training.config import load_config

    readers = {
        "npz": read_checkpoint, "torch": load_model, "yaml": load_config,
    }  # fmt: skip
    return readers.get(kind, read_frames)(path)


def attempt(kind, path):
    """Return the type of what was raised, what it says, and the seconds of work that it took."""
    start = time.process_time()
    try:
        read(kind, path)
        found = "", ""
    except BaseException as error:
        found = type(error).__name__, str(error)[:1000]
    return *found, time.process_time() - start


def main(folder, spare):
    """Read all files of a folder with `spare` bytes of memory beyond what is taken by then."""
    import resource
    import warnings

    from gnn.training.checkpoint import load_model

    warnings.simplefilter("ignore")
    load_model()  # imports, and buffers of libraries
    for kind in KINDS:
        attempt(kind, folder / kind / f"fine{KINDS[kind][0]}")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for kind, (suffix, cases) in KINDS.items():
        for name in cases:
            found = attempt(kind, folder / kind / f"{name}{suffix}")
            print(json.dumps([kind, name, *found]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
