"""Readers of tables and lists of words, and whole ones to damage."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

from fieldmark.benchmarks.attribution.automatic_masks import read_boxes
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.covar.manifest import open_covar
from fieldmark.data.datasets.people import read_margins
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.tables import read_table
from fieldmark.discovery.region_files import read_region_table
from fieldmark.discovery.vocabulary import read_vocabulary
from fieldmark.models.prompts import read_templates
from fieldmark.report.published import parse_references
from fieldmark.testing import FakeEncoder
from tests.fuzz.mutate import damage_bytes, damage_text
from tests.fuzz.run import Reader

IMAGES = (
    b"path,label,place,split,mask,object,scene,id\n"
    b"a.png,bird,water,train,m.png,o1,s1,1\nb.png,cat,land,test,,o2,s2,2\n",
    b"\xef\xbb\xbffilepath,y\r\na.png,0\r\nsub/c.png,1\r\n",
    b'img_filename,y,place,place_filename,split,img_id\n"a.png",0,1,/x/1.jpg,0,7\nb.png,1,0,,2,8\n',
)
OBJECTS = (
    b'id,path,label,mask,box\no1,a.png,bird,m.png,\no2,b.png,cat,,"1,1,4,5"\n',
    b'path,label,bbox\na.png,bird,"[0, 0, 3.5, 4]"\n',
)
SCENES = (b"path,category,id\na.png,forest,1\nb.png,,2\n", b"filepath\na.png\n")
REGIONS = (
    b"image,x0,y0,x1,y1,name\na.png,0,0,4,4,beak\nb.png,1,2,3.5,8,tail\nzz.png,0,0,1,1,none\n",
    b"path\tx0\ty0\tx1\ty1\na.png\t0\t0\t2\t2\n",
)
BOXES = (
    b"path,label,x0,y0,x1,y1\na.png,bird,0,0,4,4\nb.png,cat,,,,\n",
    b'path,label,box\na.png,bird,"0 0 4 4"\nb.png,cat,"[1, 2, 3, 4]"\n',
)
MARGINS = (b"id,margin\n1,0.5\n2,\n3,-1\n",)
COVAR = (
    b"id,path,label,attribute,mask,object,scene,subset,realised_area,visible,cut_off,parameters\n"
    b'1,a.png,bird,forest,m.png,o1,s1,original,0.25,1,0,"{""scale"": 1}"\n'
    b'2,b.png,cat,lake,m.png,o2,s2,rotation,,0.5,1,"{}"\n',
)
WORDS = (b"grass\nred  square\n\ngrass\n", b"\xef\xbb\xbfwater\r\nsky\r\n")
TEMPLATES = (b"a photo of a {}.\nan image of a {}.\n",)


def prepare_images(folder: Path) -> None:
    """Put the images and the mask there that the tables name."""
    (folder / "sub").mkdir()
    for name in ("a.png", "b.png", "c.png", "sub/c.png"):
        Image.new("RGB", (9, 8), (10, 200, 30)).save(folder / name)
    mask = Image.new("L", (9, 8))
    mask.paste(255, (2, 2, 6, 6))
    mask.save(folder / "m.png")
    (folder / "images.csv").write_text("path,label\na.png,bird\nb.png,cat\n")
    info = '{"kind": "covar", "subsets": ["rotation"]}'
    (folder / "info.json").write_text(info)


def write_parquet(columns: dict[str, list[object]], *, compression: str) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream, compression=compression)
    return stream.getvalue()


def _write_tables() -> tuple[bytes, ...]:
    plain: dict[str, list[object]] = {"path": ["a.png", "b.png"], "label": ["bird", "cat"]}
    numbers: dict[str, list[object]] = {
        **plain,
        "label": [0, 1],
        "split": [None, "test"],
        "place": [1.5, 2.5],
    }
    odd: dict[str, list[object]] = {**plain, "id": [b"\xff", b"2"], "scene": [[1, 2], None]}
    return tuple(
        write_parquet(columns, compression=kind)
        for columns, kind in ((plain, "NONE"), (numbers, "SNAPPY"), (odd, "GZIP"))
    )


def _read_objects(source: Path) -> None:
    objects = read_foregrounds(source)
    for index in range(min(len(objects), 4)):
        objects.read(index)
    objects.hashes()


def _read_images(source: Path) -> None:
    table = read_table(source)
    table.read(0)
    table.group_ids()
    table.group_names()
    if table.splits:
        table.select(table.splits[0])


def _read_regions(source: Path) -> None:
    images = read_table(source.parent / "images.csv")
    read_region_table(source, images, spec=FakeEncoder().spec)


def _read_references(source: Path) -> None:
    parse_references(source.read_bytes().decode("utf-8", "replace"), where=source.name)


def _write_and_read(
    content: bytes, folder: Path, *, name: str, read: Callable[[Path], object]
) -> None:
    (folder / name).write_bytes(content)
    read(folder / name)


def make_file_reader(
    title: str,
    file: str,
    seeds: Sequence[bytes],
    read: Callable[[Path], object],
    share: float = 1.0,
) -> Reader:
    """Return the reader of one file beside the images of `prepare_images`."""
    return Reader(
        name=title,
        seeds=seeds,
        read=functools.partial(_write_and_read, name=file, read=read),
        damage=damage_bytes if file.endswith(".parquet") else damage_text,
        prepare=prepare_images,
        share=share,
    )


def list_readers() -> list[Reader]:
    """Return the readers of tables."""
    lines = (
        (resources.files("fieldmark.report") / "references" / "bap.csv").read_bytes().splitlines()
    )
    published = (b"\n".join(lines[:12]) + b"\n",)
    return [
        make_file_reader("CSV images", "t.csv", IMAGES, _read_images, 2),
        make_file_reader("TSV images", "t.tsv", [IMAGES[0].replace(b",", b"\t")], _read_images),
        make_file_reader("CSV foregrounds", "t.csv", OBJECTS, _read_objects, 2),
        make_file_reader("CSV backgrounds", "t.csv", SCENES, read_backgrounds),
        make_file_reader("CSV regions", "t.csv", REGIONS[:1], _read_regions),
        make_file_reader("TSV regions", "t.tsv", REGIONS[1:], _read_regions),
        make_file_reader("CSV boxes", "t.csv", BOXES, _read_boxes),
        make_file_reader("CSV margins", "t.csv", MARGINS, read_margins),
        make_file_reader("covar.csv", "covar.csv", COVAR, lambda path: open_covar(path.parent)),
        make_file_reader("CSV published figures", "t.csv", published, _read_references),
        make_file_reader("vocabulary", "w.txt", WORDS, read_vocabulary),
        make_file_reader("templates", "w.txt", TEMPLATES, read_templates),
        make_file_reader("Parquet", "t.parquet", _write_tables(), _read_images, 2),
    ]


def _read_boxes(source: Path) -> None:
    read_boxes(str(source), read_table(source))
