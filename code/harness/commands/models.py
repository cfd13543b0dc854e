"""`harness models`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.commands.options import AsJson, parse_options
from harness.errors import ConfigError, on_interrupt
from harness.host import console

models_app = typer.Typer(help="List, show, fetch, verify, build or compress models.", rich_markup_mode="rich")


@models_app.callback()
def _models(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        models_list(as_json)
    elif as_json:
        raise ConfigError(f"--json belongs behind the command: harness models {context.invoked_subcommand} --json.")


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List the models that are known by name, and which are on this machine."""
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
    """Show what a model is: its file, its graph, how sparse its weights are, and what its metadata say."""
    from harness.models.show import describe, rows

    with console.working(f"reading {name}"):
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
    """Fetch a model into build/models, or take in your copy of it: resumed, verified, then known by its name."""
    from harness.models.fetch import fetch
    from harness.models.verify import verdict

    with on_interrupt("no model was taken in; the same command goes on with what was downloaded."):
        model = fetch(name, copy)
    if as_json:
        console.print_json({"name": name, "path": model.path, "sha256": model.sha256, "verdict": verdict(model)})
    else:
        console.out.print(f"{name}: {model.path}, {verdict(model)}")


@models_app.command("verify")
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models by name; default: all that are here.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hash the models that are shipped or were fetched again, and read their graphs."""
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
    typer.Option("--calibration", help="Data set by name or path, not one that is scored.", show_default="shipped"),
]


@models_app.command("build")
def models_build(
    name: Annotated[str, typer.Argument(help="A model whose graph can be built (see `harness models`).")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="random|PATH",
            help="random: to measure speed, nothing it answers means anything. PATH: a checkpoint in safetensors.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="build/models/NAME-random.onnx or -built")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    dense: Annotated[bool, typer.Option("--dense", help="Leave a compressed model's compression out.")] = False,
    dataset: _Calibration = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples to calibrate with.", show_default="256; 8 for random weights")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a published model: its architecture with a checkpoint's or random weights, then its compression."""
    from harness.models.build import build

    with on_interrupt("nothing was written."):
        path = build(name, weights, output, seed, dense=dense, dataset=dataset, samples=samples)
    if as_json:
        console.print_json({"name": name, "weights": weights, "path": path})
    else:
        console.out.print(f"{name}, {'random weights' if weights == 'random' else weights}: {path}")


@models_app.command("compress")
def models_compress(
    model: Annotated[str, typer.Argument(metavar="IN", help="The dense FP32 model: its name or path.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The ONNX file to write.")],
    sparsity: Annotated[float, typer.Option(help="Share of the inner layers' weights that become 0, below 1.")] = 0.0,
    block: Annotated[int, typer.Option(help="Neighbouring inputs of an output that are pruned together.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, or int8 for weights and activations.")] = "fp32",
    method: Annotated[
        str, typer.Option(help="second-order (what is left is fitted to the data) or magnitude.")
    ] = "second-order",
    dataset: _Calibration = None,
    samples: Annotated[
        int, typer.Option(help="Samples to calibrate with; memory holds what they are between two layers.")
    ] = 256,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers to leave alone, such as '*.layer.0.*'.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Relative output error from which on a matrix product stays in FP32.")
    ] = 0.05,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Benchmark option that the file does not tell itself."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prune and quantise a model in one shot, from calibration data, without training.

    The result runs fast on both engines, says what was done to it, and comes with a report of each layer.
    """
    from harness.compress.compress import CompressSettings
    from harness.models.compression import REPORT, compress_file, table
    from harness.running.settings import validated

    values = {"sparsity": sparsity, "block": block, "precision": precision, "method": method}
    settings = validated(CompressSettings, {**values, "keep": tuple(keep or ()), "tolerance": tolerance})
    with on_interrupt("nothing was written."):
        made = compress_file(model, output, settings, dataset, samples, parse_options(option or []))
    if as_json:
        console.print_json({"path": made.path, **json.loads(made.path.with_suffix(REPORT).read_text("utf-8"))})
        return
    console.print_table(table(made.report))
    sizes = [f"{size / 2**20:.1f} MiB" for size in (made.dense_bytes, made.bytes, made.zipped_bytes)]
    console.out.print(f"{made.path}: {sizes[0]} before, {sizes[1]} now, {sizes[2]} after gzip")
