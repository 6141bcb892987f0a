"""Structured mutations of files: what a broken disk, a careless program or an attacker makes of valid ones."""

import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

TEXTS = (
    "", " ", "\0", "a\0b", "\n", "a\r\nb", "\x1b[31m", "../../../outside", "/etc/passwd", "~nobody", "C:\\x", "%s%n{0}",
    "a" * 300, "a" * 70_000, "\ud800", "\u202e", "\u0660", "\U0001f600" * 50, "nan", "inf", "-1", "1e999", "9" * 5000,
    "\u00b2", "http://127.0.0.1:9/x", "s3://", "file:///etc/passwd", "@list", "-", "--help", "None", "a,b\tc;d|\"",
    "in/", ".",
    "{", "{video}", "$(id)", "x" * 255 + ".jpg", "0x10", "1_000", "12345678901234567890",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *TEXTS, None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1.7e308, [], {}, [[]],
    {"": {}},
    [None], [1, "a"], ["x"] * 1000, {"a": [{"a": [{}]}]}, [1, 2, 3, 4], [0, 0], [-1, 1e300],
)  # fmt: skip
# What Python's json cannot write, or not so deeply nested.
LITERALS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1" + "0" * 400, "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000, r'"\ud800"', r'"\u0000"', r'"\udcff"', "1.0", "1E400", "tru", "'a'", "01",
    "/* */ 1", '{"a": 1, "a": 2}',
)  # fmt: skip
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_MARK = "@literal@"


def mutate(name: str, content: bytes, random: Random) -> bytes:
    """Return another version of a file, mutated as files of its suffix are likely to be."""
    special = BY_SUFFIX.get(Path(name).suffix.lower())
    if special and random.random() < 0.8:
        try:
            return special(content, random)
        except (ValueError, LookupError, struct.error, tarfile.TarError, zipfile.BadZipFile):
            pass  # a mutated seed, which the mutation cannot parse
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        content = mutate_bytes(content, random)
    return content


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Change bytes without regard to the format."""
    at, end = sorted((_place(content, random), random.randrange(len(content) + 1)))
    some = content[at : min(end, at + 4096)]
    match random.randrange(11):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[at + random.choice((1, 2, 4, 100)) :]
        case 2:
            return content[:at] + some * random.choice((2, 3, 100)) + content[at:]
        case 3:
            return content[:at] + random.randbytes(len(some)) + content[at + len(some) :]
        case 4:
            return content[:at] + bytes([random.choice((0, 0xFF))]) * len(some) + content[at + len(some) :]
        case 5:
            return random.choice((b"", b"\0", content[at:], content + some, content + bytes(5000), some))
        case 6:
            return (
                content[:at] + random.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\0", b"\x1a")) + content[at:]
            )
        case 7 if numbers := list(re.finditer(rb"\d+", content[:100_000])):
            number = random.choice(numbers)
            return (
                content[: number.start()]
                + random.choice(TEXTS[-20:]).encode("utf-8", "replace")
                + content[number.end() :]
            )
        case _:
            kind = random.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
            size = struct.calcsize(kind)
            value = random.choice(NUMBERS) % 2 ** (8 * size)
            return content[:at] + struct.pack(kind, value) + content[at + size :]


def _place(content: bytes, random: Random) -> int:
    """Return an offset: often near a name of four letters, beside which formats keep sizes, or in the first bytes."""
    if random.random() < 0.5 and (names := list(re.finditer(rb"[a-zA-Z]{4}", content[:200_000]))):
        return max(0, random.choice(names).start() + random.choice((-4, -4, 0, 4, 8, 12)))
    return random.randrange((min(len(content), 64) if random.random() < 0.5 else len(content)) + 1)


def mutate_json(content: bytes, random: Random) -> bytes:
    """Change a value or a key of a JSON document, or of one line of several."""
    lines = content.decode().splitlines()
    try:
        documents = [json.loads(content)]
        number = 0
    except ValueError:
        documents = [json.loads(line) for line in lines]
        number = random.randrange(len(documents))
    holder, literal = [documents[number]], random.choice(LITERALS)
    place, key = random.choice(list(_places(holder)))
    match random.randrange(8):
        case 0 | 1:
            place[key] = f"{_MARK}"
        case 2 if isinstance(place, dict):
            del place[key]
        case 3 if isinstance(place, dict):
            place[random.choice(TEXTS)] = place.pop(key)
        case 4 if isinstance(place, list):
            place.extend([place[key]] * random.choice((1, 50)))
        case 5:
            place[key] = [place[key]] if random.random() < 0.5 else {"a": place[key]}
        case _:
            place[key] = random.choice(VALUES)
    documents[number] = holder[0]
    texts = [json.dumps(document, indent=1 if len(documents) == 1 else None) for document in documents]
    written = "".join(f"{text}\n" for text in texts).replace(f'"{_MARK}"', literal).encode("utf-8", "surrogatepass")
    return mutate_bytes(written, random) if random.random() < 0.1 else written


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def mutate_text(content: bytes, random: Random) -> bytes:
    """Change a line or a field of a table, a list or a config."""
    text = content.decode()
    lines = text.splitlines(keepends=True)
    number, odd = random.randrange(len(lines)), random.choice(TEXTS)
    fields = re.split(r"([,\t;|=#: ])", lines[number])
    match random.randrange(8):
        case 0:
            lines *= random.choice((2, 500))
        case 1:
            del lines[number]
        case 2:
            lines.insert(number, odd + "\n")
        case 3:
            lines[number] = (
                lines[number].rstrip("\n") + random.choice((",", "\t", '"', "\\", "'", "[", " =")) + odd + "\n"
            )
        case 4:
            return text.encode(random.choice(("utf-16", "utf-8-sig", "utf-32")))
        case _:
            fields[random.randrange(len(fields))] = odd
            lines[number] = "".join(fields)
    return "".join(lines).encode("utf-8", "surrogatepass")


def mutate_safetensors(content: bytes, random: Random) -> bytes:
    """Change the header, with its length."""
    size = int.from_bytes(content[:8], "little")
    header = mutate_json(content[8 : 8 + size], random)
    claimed = random.choice(NUMBERS) if random.random() < 0.2 else len(header)
    return struct.pack("<Q", claimed) + header + content[8 + size :]


def mutate_zip(content: bytes, random: Random) -> bytes:
    """Change a file in a zip archive, its name or how it is stored."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = random.choice(list(files))
    method = zipfile.ZIP_STORED
    match random.randrange(6):
        case 0:
            files[random.choice(TEXTS[4:12]).replace("\0", "")] = files.pop(name)
        case 1:
            del files[name]
        case 2:
            method, files[name] = zipfile.ZIP_DEFLATED, bytes(1 << 28)
        case 3:
            files[next(it for it in files if it.endswith("data.pkl"))] = random.choice(pickles())
        case _:
            files[name] = mutate_bytes(files[name], random)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for entry, data in files.items():
            archive.writestr(entry, data)
    return written.getvalue()


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def pickles() -> list[bytes]:
    """Return pickles that would run code, fill the memory or nest deeply, and some that end early."""
    import torch

    cyclic: dict[str, Any] = {}
    cyclic["state_dict"] = cyclic
    nested: Any = ()
    for _ in range(400):
        nested = (nested,)
    rebuild = torch._utils._rebuild_tensor_v2
    return [
        *(pickle.dumps(_Call(call, *given), 2) for call, given in (
            (os.system, ("touch pwned",)), (eval, ("1",)), (bytearray, (1 << 40,)), (torch.zeros, ((1 << 40,),)),
            (rebuild, (torch.zeros(1), 0, (1 << 40, 1 << 20), (1, 1), False, {})), (getattr, ("a", "b")),
            (torch.load, ("pwned",)), (dict, ([],)), (torch.Tensor, (1 << 33,)), (torch.UntypedStorage, (1 << 40,)),
        )),
        *(pickle.dumps(value, 2) for value in (cyclic, nested, [], 1, None, "a" * 100, {1: 2}, {"a": {}}, set())),
        b"\x80\x02" + b"(" * 1_000_000 + b".", b"\x80\x02" + b"]" * 1_000_000 + b"t.",
        b"\x80\x02]" + b"h\0" * 1000 + b".",
        b"\x80\x02X\xff\xff\xff\x7f", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f", b"\x80\x02\x8b\xff\xff\xff\x7f",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02}q\x00(h\x00h\x00u.", b"\x80\x02.", b"\x80\x02N", b"\x80\xff.",
        b"cos\nsystem\n(S'touch pwned'\ntR.", b"\x80\x02" + b"2" * 1_000_000,
    ]  # fmt: skip


def mutate_pickle(content: bytes, random: Random) -> bytes:
    """Change a checkpoint of torch: its tensors, or the pickle itself."""
    import torch

    if random.random() < 0.4:
        return random.choice(pickles())
    state = torch.load(io.BytesIO(content), weights_only=True)
    name = random.choice(list(state))
    tensor = state[name]
    odd: list[Any] = [
        tensor.double(), tensor.int(), tensor.bool(), tensor.to(torch.complex64), tensor.to(torch.bfloat16),
        tensor * torch.nan,
        tensor.flatten()[:0], tensor.flatten(), tensor[None], tensor.to("meta"), tensor.to_sparse(),
        torch.zeros(()), torch.empty(0, 5),
        torch.zeros(1).expand(1 << 20, 1 << 18), tensor.to(torch.float8_e4m3fn), torch.nn.Parameter(tensor.float()),
        tensor.tolist(),
        *VALUES[::3],
    ]  # fmt: skip
    match random.randrange(6):
        case 0:
            state.pop(name)
        case 1:
            state[random.choice((*TEXTS[:20], "visual.proj", "module.x", 1, (1,), None))] = tensor
        case 2:
            state = {
                random.choice(("state_dict", "model", "ema", "x")): random.choice((state, {"model": state}, [state]))
            }
        case 3 | 4:
            state[name] = random.choice(odd)
        case _:
            state[next(it for it in state if it.endswith("text_projection"))] = random.choice(odd)
    written = io.BytesIO()
    torch.save(state, written, _use_new_zipfile_serialization=random.random() < 0.5)
    return written.getvalue()


def mutate_torch(content: bytes, random: Random) -> bytes:
    """Change a checkpoint of torch: tensors, pickle or archive."""
    return (mutate_zip if content[:2] == b"PK" and random.random() < 0.5 else mutate_pickle)(content, random)


def mutate_tar(content: bytes, random: Random) -> bytes:
    """Change a member of a tar: its name, kind or size, or what it holds."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar if member.isreg()]  # type: ignore[union-attr]
    number = random.randrange(len(members))
    member, data = members[number]
    header, broken = member.tobuf(tarfile.GNU_FORMAT), False
    match random.randrange(8):
        case 0:
            member.name = random.choice(TEXTS[5:14]).encode("utf-8", "replace").decode() + Path(member.name).suffix
        case 1:
            member.type = random.choice(
                (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"K", b"L", b"x", b"g", b"V", b"?")
            )
            member.linkname = random.choice(("../../../../etc/passwd", "/etc/passwd", member.name, ""))
        case 2:
            member.size = random.choice((2**33, 2**62, 8**11 - 1, len(data) + 1, len(data) * 2 + 1024))
        case 3:
            member.pax_headers = {
                random.choice(("path", "size", "linkpath", "GNU.sparse.map", "GNU.sparse.size")): random.choice(
                    TEXTS[5:]
                )
            }
        case 4:
            members.extend([members[number]] * random.choice((1, 200)))
        case 5:
            raw = bytearray(header)
            raw[random.choice((124, 124, 100, 148, 156, 257))] = random.choice(
                (0x80, 0xFF, 0x20, 0x39)
            )  # base-256 sizes
            raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + sum(raw[156:512]) + 256)
            header, broken = bytes(raw), True
        case _:
            members[number] = member, mutate(member.name, data, random)
            member.size = len(members[number][1])
    written = []
    for index, (each, inside) in enumerate(members):
        own = (
            header
            if index == number and broken
            else each.tobuf(tarfile.PAX_FORMAT if each.pax_headers else tarfile.GNU_FORMAT)
        )
        written += [own, inside, bytes(-len(inside) % 512)]
    return b"".join(written) + bytes(1024)


def mutate_png(content: bytes, random: Random) -> bytes:
    """Change a chunk of a PNG, with a valid checksum, so that decoders read on."""
    chunks, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    number = random.randrange(len(chunks)) if random.random() < 0.5 else 0
    name, data = chunks[number]
    chunks[number] = name, mutate_bytes(data, random)
    chunks += [chunks[number]] * random.choice((0, 0, 2))
    written = (len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in chunks)
    return content[:8] + b"".join(written)


def mutate_parquet(content: bytes, random: Random) -> bytes:
    """Change the type or the values of a column."""
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(content))
    number = random.randrange(table.num_columns)
    name, rows = table.column_names[number], table.num_rows
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS]
    files = [{"bytes": b"x", "path": "../../x.jpg"}, {"bytes": None}, {"path": 1}]
    odd = random.choice([None, b"\xff\0", [b"a"], 1.5, 2**63 - 1, True, *files, *texts])
    new = random.choice((name, *texts))
    columns = {own: table.column(own) for own in table.column_names}
    del columns[name]
    columns[new] = pyarrow.array([odd] * rows) if random.random() < 0.8 else table.column(name)
    written = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), written)
    return written.getvalue()


def mutate_entry(path: Path, random: Random) -> str:
    """Put something else in the place of a file; return what."""
    path.unlink()
    match random.randrange(5):
        case 0:
            path.mkdir()
            return "folder"
        case 1:
            path.symlink_to(path.name)
            return "link to itself"
        case 2:
            path.symlink_to("missing")
            return "dangling link"
        case 3:
            os.mkfifo(path)
            return "pipe"
        case _:
            path.symlink_to("/dev/zero")
            return "device"


BY_SUFFIX: dict[str, Mutation] = {
    **dict.fromkeys((".json", ".jsonl"), mutate_json),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".token", ".toml", ".yaml", ".caption", ".cls", ".xml"), mutate_text),
    **dict.fromkeys((".pt", ".bin", ".pth"), mutate_torch),
    ".safetensors": mutate_safetensors,
    ".tar": mutate_tar,
    ".png": mutate_png,
    ".parquet": mutate_parquet,
}
