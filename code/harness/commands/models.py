"""`harness models`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.table import Table

from harness.commands.options import AsJson, parse_options
from harness.errors import ConfigError, on_interrupt
from harness.terminal import console
from harness.terminal.progress import working

models_app = typer.Typer(help="List, show, fetch, verify, build, compress or train models.", rich_markup_mode="rich")


@models_app.callback()
def _models(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        models_list(as_json)
    elif as_json:
        raise ConfigError(f"put --json after the command: harness models {context.invoked_subcommand} --json.")


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List the models that are known by name, and show which exist on this machine."""
    from harness.models.show import overview

    rows = overview()
    if as_json:
        console.print_json(rows)
        return
    table = Table("name", "benchmark", "precision", "on this machine", "description", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    console.print_table(table)


@models_app.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of an ONNX file.")], as_json: AsJson = False
) -> None:
    """Describe a model: its file, its graph, the sparsity of its weights, and its metadata."""
    from harness.models.show import describe, rows

    with working(f"reading {name}"):
        facts = describe(name)
    if as_json:
        console.print_json(asdict(facts))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in rows(facts):
        table.add_row(*row)
    console.print_table(table)


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(help="A model that is not shipped (see `harness models`).")],
    copy: Annotated[
        str | None,
        typer.Option("--from", metavar="PATH", help="Your copy: an ONNX file, a folder or an archive (PATH#MEMBER)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model into build/models, or import your own copy: resumable, verified, then known by its name."""
    from harness.models.fetch import fetch
    from harness.models.verify import verdict

    with on_interrupt("no model was stored; the same command resumes the download."):
        model = fetch(name, copy)
    if as_json:
        console.print_json({"name": name, "path": model.path, "sha256": model.sha256, "verdict": verdict(model)})
    else:
        console.out.print(f"{name}: {model.path}, {verdict(model)}")


@models_app.command("verify")
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models by name; default: all on this machine.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify shipped and fetched models again: hash their files and read their graphs."""
    from harness.models.verify import verify

    with on_interrupt("nothing was changed."):
        good, problems = verify(names or [])
    if as_json:
        console.print_json({"good": good, "problems": problems})
    for line in good if not as_json else []:
        console.out.print(line)
    for line in problems:
        console.error(line)
    if problems:
        raise typer.Exit(1)


_Calibration = Annotated[
    str | None,
    typer.Option("--calibration", help="Data set by name or path; not one used for scoring.", show_default="shipped"),
]


def _form(engine: str | None) -> str | None:
    from harness.compress.quantise import EngineForm

    forms = get_args(EngineForm)
    if engine not in (None, *forms):
        raise ConfigError(f"--for {engine}: choose from {', '.join(forms)}.")
    return engine


For = Annotated[
    str | None,
    typer.Option(
        "--for",
        callback=_form,
        metavar="ENGINE",
        help="Write INT8 in the operators that deepsparse, openvino or onnxruntime runs fast; not for FP32.",
        show_default="deepsparse for sparse models and published ones, else openvino",
    ),
]
"""The option `--for`, which training also has."""

BenchmarkOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Benchmark option that the file does not contain."),
]
"""The option `--set`, which training also has."""


def _input(images: str | None) -> str | None:
    if images not in (None, "uint8", "float32"):
        raise ConfigError(f"--input {images}: choose from uint8, float32.")
    return images


_Images = Annotated[
    str | None,
    typer.Option(
        "--input",
        callback=_input,
        metavar="uint8|float32",
        help="Image input of an INT8 classifier: pixels, which the graph normalises, or normalised images.",
        show_default="uint8",
    ),
]


@models_app.command("build")
def models_build(
    name: Annotated[str, typer.Argument(help="A model that can be built (see `harness models`).")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="random|PATH",
            help="random: only to measure speed, the answers are meaningless. PATH: a checkpoint in safetensors.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Output file.", show_default="build/models/NAME-random.onnx or -built")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    dense: Annotated[bool, typer.Option("--dense", help="Build a compressed model without compressing it.")] = False,
    dataset: _Calibration = None,
    samples: Annotated[
        int | None, typer.Option(help="Number of calibration samples.", show_default="256; 8 for random weights")
    ] = None,
    engine: For = None,
    images: _Images = None,
    as_json: AsJson = False,
) -> None:
    """Build a published model: its architecture with random weights or a checkpoint's, then its compression."""
    from harness.models.build import BuildRequest, build

    request = BuildRequest(name, weights, output, seed, dense, dataset, samples, engine, images)
    with on_interrupt("nothing was written."):
        path = build(request)
    if as_json:
        console.print_json({"name": name, "weights": weights, "path": path})
    else:
        console.out.print(f"{name}, {'random weights' if weights == 'random' else weights}: {path}")


@models_app.command("compress")
def models_compress(
    model: Annotated[str, typer.Argument(metavar="IN", help="The dense FP32 model, by name or path.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Output ONNX file.")],
    sparsity: Annotated[float, typer.Option(help="Share of the inner layers' weights to set to 0, below 1.")] = 0.0,
    block: Annotated[int, typer.Option(help="Neighbouring inputs of an output to prune together.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, or int8 for weights and activations.")] = "fp32",
    method: Annotated[
        str, typer.Option(help="second-order (the remaining weights are fitted to the data) or magnitude.")
    ] = "second-order",
    dataset: _Calibration = None,
    samples: Annotated[
        int, typer.Option(help="Number of calibration samples; memory grows with the size of their activations.")
    ] = 256,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers to leave unchanged, such as '*.layer.0.*'.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Relative output error above which a matrix product stays in FP32; twice that for attention weights "
            "by values."
        ),
    ] = 0.05,
    engine: For = None,
    images: _Images = None,
    option: BenchmarkOptions = None,
    as_json: AsJson = False,
) -> None:
    """Prune and quantise a model in one shot, from calibration data, without training.

    The result is written in the operators that one engine runs fast (every engine runs it), describes its compression
    in its metadata, and comes with a report on each layer.
    """
    from harness.compress.compress import CompressSettings
    from harness.models.compression import REPORT, compress_file, table
    from harness.validation import validated

    values = {"sparsity": sparsity, "block": block, "precision": precision, "method": method, "engine": engine}
    values |= {"keep": tuple(keep or ()), "tolerance": tolerance, "input": images}
    settings = validated(CompressSettings, values)
    with on_interrupt("nothing was written."):
        made = compress_file(model, output, settings, dataset, samples, parse_options(option or []))
    if as_json:
        console.print_json({"path": made.path, **json.loads(made.path.with_suffix(REPORT).read_text("utf-8"))})
        return
    console.print_table(table(made.report))
    sizes = [f"{size / 2**20:.1f} MiB" for size in (made.dense_bytes, made.bytes, made.zipped_bytes)]
    console.out.print(f"{made.path}: {sizes[0]} before, {sizes[1]} after, {sizes[2]} gzipped")
