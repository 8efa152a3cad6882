"""The declarations in Python are those of the C headers."""

import ctypes
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from fusco import _library, _structs, options
from fusco.shard import LAYOUT
from fusco.torch import calls

HEADERS = "".join(
    (ROOT / "native" / "include" / f"{name}.h").read_text()
    for name in ("fusco", "fusco_cuda", "fusco_nccl", "fusco_planning", "fusco_audit")
)
PLAIN = re.sub(r"/\*.*?\*/", "", HEADERS, flags=re.S)
for constant, number in re.findall(r"#define (FUSCO_\w+) (\d+)\n", HEADERS):
    PLAIN = PLAIN.replace(f"[{constant}]", f"[{number}]")
PLAIN = re.sub(r"#.*", "", PLAIN)
C_TYPES = {
    "uint32_t": ctypes.c_uint32,
    "int32_t": ctypes.c_int32,
    "uint64_t": ctypes.c_uint64,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
    "void *": ctypes.c_void_p,
    "const void *": ctypes.c_void_p,
    "const char *": ctypes.c_char_p,
}
STRUCTS = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): struct
    for name, struct in vars(_structs).items()
    if isinstance(struct, type) and issubclass(struct, ctypes.Structure) and struct is not ctypes.Structure
}


def fields_of(name):
    """(type, name, elements) of the fields of a struct, as the header declares them."""
    body = re.search(rf"typedef struct fusco_{name} \{{(.*?)\}} fusco_{name};", PLAIN, re.S).group(1)
    for declaration in filter(None, (" ".join(part.split()) for part in body.split(";"))):
        kind, pointer, field, _, elements = re.fullmatch(r"(.*?)\s*(\*?)\s*(\w+)(\[(\d+)\])?", declaration).groups()
        yield f"{kind} *" if pointer else kind, field, int(elements or 0)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_a_struct_has_the_fields_of_the_header(name):
    declared = list(fields_of(name))
    assert [field for _, field, _ in declared] == [field[0] for field in STRUCTS[name]._fields_]
    for (kind, field, elements), (_, ours) in zip(declared, STRUCTS[name]._fields_):
        if elements:
            assert ctypes.sizeof(ours) == elements * {"char": 1, "uint8_t": 1, "uint64_t": 8}.get(kind, 0), field
        elif kind in C_TYPES:
            assert ours is C_TYPES[kind], field
        elif re.fullmatch(r"fusco_\w+ \*", kind) and f"typedef struct {kind[:-2]} {kind[:-2]};" in PLAIN:
            assert ours is ctypes.c_void_p, field
        elif kind.endswith("*"):
            assert issubclass(ours, ctypes._Pointer), field
        elif kind == "fusco_buffer":
            assert ours is _structs.Buffer, field
        else:
            assert re.search(rf"typedef enum {kind} ", PLAIN) and ours is ctypes.c_int, field


def test_every_function_has_the_parameters_of_the_header():
    for name, parameters in _library._STATUS_FUNCTIONS.items():
        declared = re.search(rf"fusco_status {name}\(([^)]*)\)", PLAIN).group(1).split(",")
        assert len(declared) == len(parameters) + 1, name
        assert "fusco_error *error" in declared[-1], name
    for name, (_, parameters) in _library._OTHER_FUNCTIONS.items():
        declared = re.search(rf"[\w*] ?{name}\(([^)]*)\)", PLAIN).group(1)
        assert len([part for part in declared.split(",") if part.strip() not in ("", "void")]) == len(parameters), name


def enumerators(name):
    body = re.search(rf"typedef enum fusco_{name} FUSCO_ENUM \{{(.*?)\}}", PLAIN, re.S).group(1)
    pairs = re.findall(rf"FUSCO_{name.upper()}_(\w+) = (\d+)", body)
    return [text for text, number in sorted(pairs, key=lambda pair: int(pair[1]))]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("dtype", options.DTYPES),
        ("strategy", options.STRATEGIES),
        ("balance", options.BALANCES),
        ("partial", options.PARTIALS),
        ("sum", options.SUMS),
        ("replicas", options.REPLICAS),
    ],
)
def test_choices_are_in_the_order_of_the_enumeration(name, ours):
    assert enumerators(name) == [choice.upper().replace("-", "_") for choice in ours]


def test_the_numbers_of_floating_point_dtypes():
    numbers = {name: options.DTYPES.index(name) for name in calls.FLOAT_NAMES.values()}
    assert {dtype: numbers[name] for dtype, name in calls.FLOAT_NAMES.items()} == calls.FLOATS
    assert options.DTYPES[calls.BYTES] == "bytes"


def test_the_words_of_a_shard():
    layout = (ROOT / "native" / "core" / "plan_layout.h").read_text()
    for name, value in LAYOUT.items():
        assert f"#define FUSCO_{name} {value}\n" in layout


def test_a_failed_call_has_a_code_and_a_hint_for_every_status():
    statuses = re.search(r"typedef enum fusco_status FUSCO_ENUM \{(.*?)\}", PLAIN, re.S).group(1)
    for name, number in re.findall(r"FUSCO_(E_\w+) = (\d+)", statuses):
        error = _library.error_of(_structs.Error(status=int(number), rank=-1, message=b"text"))
        assert error.code == name
        assert len(error.hint) > 10


def test_the_module_needs_no_torch_and_no_numpy():
    program = """
import sys
sys.modules['torch'] = sys.modules['numpy'] = None
import fusco
print(fusco.plan([[[0, 1]]], experts=2).plan_id())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.strip())) == (0, 64), done.stderr
