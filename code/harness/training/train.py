"""Trains a model from a checkpoint or an FP32 graph; the ONNX file works in runs and submissions like any other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from onnx import ModelProto

from harness import TOOL, __version__, paths
from harness.catalog import manifests
from harness.catalog.models import find_model, model_file
from harness.compress.compress import CompressSettings
from harness.compress.effort import shown_by
from harness.compress.folding import read_network
from harness.compress.network import Layer, Network
from harness.compress.products import products
from harness.errors import ConfigError
from harness.files.disk import check_writable, remove_left_over, write_bytes, write_text
from harness.host.machine import core_count
from harness.models.build import BuildRequest, build
from harness.models.compression import TRAINED, check_dense, facts_of
from harness.models.made import check_output, check_replaceable
from harness.task.base import find_benchmark
from harness.task.training import TrainingData
from harness.terminal import console
from harness.terminal.progress import Progress, working
from harness.trainable.export import export
from harness.trainable.fake import FakeQuantisation
from harness.trainable.graph import GraphModule
from harness.training.history import History
from harness.training.layers import drop_layers
from harness.training.loop import Student, Trainer
from harness.training.memory import OPTIMIZER_BYTES, Budget, Demand, KeptBytes, keep_freed
from harness.training.objective import Objective, cost
from harness.training.oneshot import pruned
from harness.training.pruning import FisherMemory, Pruner
from harness.training.recipe import Recipe, check_patterns
from harness.training.state import DENSE, CheckpointFolder, Checkpoints
from harness.validation import validated

REPORT = ".training.json"
"""Suffix of the report's file name, in place of the model's ".onnx"."""
_METHODS = {
    "magnitude": "gradual pruning by magnitude",
    "second-order": "gradual second-order pruning",
    "layer-wise": "gradual second-order pruning, layer by layer",
    "acdc": "alternating compressed and decompressed training (AC/DC)",
}
_PROBED_SAMPLES = 64
"""Samples among which a short and a long one are chosen, to measure the memory that they need."""


@dataclass(frozen=True)
class TrainingRequest:
    """A training: recipe, initial weights, data and output."""

    recipe: Recipe
    weights: str
    """A checkpoint in safetensors, or "random", for a recipe that names a model; or an FP32 model, by name or path."""
    data: Path
    output: Path
    engine: str | None = None
    one_shot: bool = False
    """Whether to begin with a one-shot compression, and only recover from it."""
    options: Mapping[str, str] | None = None
    """Benchmark settings that the model's file does not contain."""
    save_every: float | None = None
    """Seconds between checkpoints; None for the default."""


@dataclass(frozen=True)
class Trained:
    """A trained model's file."""

    path: Path
    history: History
    metadata: dict[str, str]


def model_path(recipe: Recipe) -> Path:
    """The default path of a trained model."""
    return model_file(f"{recipe.name}-trained")


def train(training: TrainingRequest) -> Trained:
    """Train a model, or continue from the newest checkpoint of the same training, and write it with a report.

    A folder beside the model, with the suffix .training, holds the checkpoints. Afterwards it holds what is needed to
    write the model for another engine (``engine``) without training again.

    Raises:
        ConfigError: the model cannot be trained, the data are not of its benchmark, the folder of checkpoints
            belongs to another training, or a file cannot be written.
        RunFailed: the loss became infinite or not a number.
    """
    recipe, output = training.recipe, training.output.absolute()
    check_output(output)
    check_replaceable(output)
    check_writable(output)
    if training.engine and not recipe.quantisation:
        raise ConfigError(f"--for {training.engine}: {recipe.name} trains in FP32, the same for every engine.")
    if training.one_shot and not recipe.pruning:
        raise ConfigError(f"--start one-shot: {recipe.name} prunes nothing; omit this option.")
    remove_left_over(output.parent)
    folder = CheckpointFolder(output)
    with folder.alone():
        model = _dense(training, folder.folder)
        if output.resolve() == model.path.resolve():
            raise ConfigError(f"{output} is the dense model: choose another --output for the trained one.")
        data = _data(training, model)
        return _train(training, model, data, Checkpoints(output, _identity(training, model, data)))


def _train(training: TrainingRequest, model: manifests.Model, data: TrainingData, checkpoints: Checkpoints) -> Trained:
    recipe, device = training.recipe, _device()
    dense = read_network(model.path)
    check_dense(model.path, dense)
    teacher = GraphModule(Network(_copy(dense))).to(device).requires_grad_(False)
    student = _student(training, dense, None if checkpoints.path.exists() else data, device)
    objective = Objective(student.module, teacher, recipe.distillation, device)
    budget = _budget(recipe, student, objective, data)
    history = Trainer(recipe, student, objective, data, checkpoints, budget, training.save_every).run()
    form = _settings(training).engine_form
    metadata = joined(facts_of(model), _facts(training, data, student, history))
    with working("writing the model"):
        exported = export(student.module, student.quantisation, form, metadata)
    output = training.output.absolute()
    write_bytes(output, exported.SerializeToString(deterministic=True))
    report = {
        "model": output.name,
        "recipe": recipe.model_dump(mode="json"),
        "metadata": metadata,
        "arithmetic": "bf16" if objective.bf16 else "fp32",
        "per_second": history.per_second,
        **asdict(history),
    }
    write_text(output.with_suffix(REPORT), json.dumps(report, indent=2) + "\n")
    return Trained(output, history, metadata)


def _dense(training: TrainingRequest, folder: Path) -> manifests.Model:
    """The dense model to start from, built first if the weights are a checkpoint or random."""
    recipe, weights = training.recipe, training.weights
    if weights.endswith(".onnx") or weights in manifests.models():
        model = find_model(weights)
    elif recipe.model is None:
        raise ConfigError(
            f"--weights {weights}: the recipe {recipe.name} is for any model, so give an FP32 one: the path of an ONNX "
            "file, such as one that `harness models build NAME --weights CHECKPOINT --dense` writes."
        )
    else:
        seed = recipe.seed if weights == "random" else 0
        request = BuildRequest(recipe.start or recipe.model, weights, folder / DENSE, seed, dense=True)
        model = find_model(str(build(request)))
    if training.options:
        model = model.model_copy(update={"settings": {**model.settings, **training.options}})
    return model


def _data(training: TrainingRequest, model: manifests.Model) -> TrainingData:
    kind, recipe = find_benchmark(model.benchmark), training.recipe
    benchmark = kind(validated(kind.Settings, model.settings), paths.CACHE_DIR)
    data = benchmark.training_data(training.data, model.path, recipe.hold_out, recipe.max_cost, recipe.seed)
    if recipe.augment and not data.varies:
        raise ConfigError(f"the recipe {recipe.name}: 'augment' is for images only; remove it.")
    if data.official:
        console.warn(
            f"official runs are scored on samples in {training.data}: train on other data, since a score on "
            "training data says nothing about a model."
        )
    if not data.labelled:
        console.note(
            f"{data.count:,} samples without labels: the model only learns from the dense one, and nothing is scored"
        )
    return data


def _student(training: TrainingRequest, dense: ModelProto, data: TrainingData | None, device: torch.device) -> Student:
    """The student at the first step; ``data`` is for a one-shot start, None if a checkpoint holds its result."""
    recipe, model = training.recipe, _copy(dense)
    if recipe.layers is not None:
        model = drop_layers(Network(model), recipe.layers)
    if training.one_shot and data is not None and recipe.pruning:
        with Progress("pruning in one shot", unit="layers") as bar:
            model = pruned(model, recipe.pruning, recipe.pruning.sparsity, data, recipe.seed, shown_by(bar))
    network = Network(model)
    module = GraphModule(network).to(device)
    check_patterns(recipe, [name for layer in network.layers for name in (layer.name, layer.weight)], module.names())
    pruner = None
    if recipe.pruning:
        pruner = Pruner(module, network.inner(), recipe.pruning)
        if training.one_shot:
            pruner.adopt()
    quantisation = None
    if recipe.quantisation:
        multiplied = list(products(network)) if recipe.quantisation.products else []
        quantisation = FakeQuantisation(module, network.layers, multiplied)
    return Student(module, pruner, quantisation, fixed=training.one_shot)


def _settings(training: TrainingRequest) -> CompressSettings:
    """The settings with which `models compress` would make a model of the same kind."""
    pruning = training.recipe.pruning
    values: dict[str, object] = {"precision": "int8" if training.recipe.quantisation else "fp32"}
    if pruning:
        values |= {"sparsity": pruning.sparsity, "block": pruning.block}
    return validated(CompressSettings, values | {"engine": training.engine})


def _budget(recipe: Recipe, student: Student, objective: Objective, data: TrainingData) -> Budget:
    """Measure what a short and a long sample keep for the backward pass, and print what training will need."""
    indices = data.order(min(_PROBED_SAMPLES, data.count), 0, recipe.seed)
    ranked = sorted((cost(data.batch(indices[number : number + 1])), number) for number in range(len(indices)))
    (short, first), (length, last) = ranked[0], ranked[-1]
    parameters = list(student.module.parameters())
    if student.quantisation:
        student.quantisation.enable()  # rounding needs more memory, whatever its ranges are
    low, high = (
        KeptBytes.by(lambda copies, at=at: objective.loss(data.batch(indices[at : at + 1].repeat(copies))), parameters)  # type: ignore[misc]
        for at in (first, last)
    )
    if student.quantisation:
        student.quantisation.disable()
    count, once = sum(value.numel() for value in parameters), high.once
    needed = student.pruner.fisher_memory if student.pruner and not student.fixed else FisherMemory(0, 0)
    budget = Budget.of(
        Demand.of((short, low.each), (length, high.each)),
        Demand.of((short, low.largest), (length, high.largest)),
        count * OPTIMIZER_BYTES + needed.bytes + once,
        objective.device,
    )
    at_once = min(recipe.batch, budget.samples(length))
    if objective.device.type == "cpu":
        keep_freed(count * 20 + int(at_once * budget.demand.bytes(length)) + once)
    each = budget.demand.bytes(length) / 2**30
    console.note(
        f"memory: {count * 20 / 2**30:.2f} GiB for the weights of student and teacher, gradients and optimizer; "
        f"{at_once * each + once / 2**30:.2f} GiB for activations, {at_once} of {recipe.batch} samples at once"
    )
    if needed.bytes:
        passes = f", in {needed.passes} passes over the gradients" if needed.passes > 1 else ""
        console.note(f"memory: {needed.bytes / 2**30:.2f} GiB for the Fisher matrix while weights are chosen{passes}")
    return budget


def _identity(training: TrainingRequest, model: manifests.Model, data: TrainingData) -> dict[str, str]:
    """Whatever determines the result; not the engine, since the trained model can be written again for another."""
    recipe = training.recipe
    return {
        "number of steps": str(recipe.steps),
        "seed": str(recipe.seed),
        "data": data.digest,
        "weights": str(model.sha256),
        "settings": json.dumps({key: str(value) for key, value in sorted(model.settings.items())}),
        "start": "one-shot" if training.one_shot else "dense",
        "recipe": recipe.digest,
    }


def joined(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a model, including what it inherits; an earlier training is named first."""
    earlier = {key: f"{before[key]}; then {now[key]}" for key in TRAINED if key in before}
    return {**before, **now, **earlier}


def _facts(
    training: TrainingRequest,
    data: TrainingData,
    student: Student,
    history: History,
) -> dict[str, str]:
    """The metadata that say how the model was made."""
    recipe, pruning = training.recipe, training.recipe.pruning
    facts = {"model": recipe.model} if recipe.model and recipe.start else {}
    facts |= {
        "precision": "int8" if recipe.quantisation else "fp32",
        "compression": _methods(training),
        "training": f"{recipe.name}, {recipe.steps:,} steps of {recipe.batch}, seed {recipe.seed}",
        "recipe": recipe.name,
        "recipe_sha256": recipe.digest,
        "training_data": f"{training.data.name}, {data.origin}, {data.count:,} samples"
        + ("" if data.labelled else " without labels"),
        "torch": torch.__version__,
        "tool": f"{TOOL} {__version__}",
    }
    if recipe.quantisation:
        facts["engine_form"] = _settings(training).engine_form
    if recipe.layers is not None:
        facts["layers"] = ", ".join(map(str, recipe.layers))
    if pruning:
        zeros = _zeros(student.module, student.module.network.layers)
        facts |= {"sparsity": f"{pruning.sparsity:g}", "block": str(pruning.block), "zeros": f"{zeros:.4f}"}
    if history.dense and history.scores:
        last, count = history.scores[-1], len(data.held_back)
        facts["held_back"] = f"{last.metric} {last.percent:.2f}, dense {history.dense.percent:.2f}, {count:,} samples"
    return facts


def _methods(training: TrainingRequest) -> str:
    recipe = training.recipe
    parts = [_METHODS[recipe.pruning.method]] if recipe.pruning else []
    if training.one_shot:
        parts = ["second-order pruning in one shot, then training"]
    if recipe.layers is not None:
        parts.append(f"{len(recipe.layers)} layers kept")
    if recipe.distillation.logits or recipe.distillation.hidden:
        parts.append("distillation from the dense model")
    if recipe.quantisation:
        parts.append("quantisation-aware training")
    return ", ".join(parts)


def _zeros(module: GraphModule, layers: Sequence[Layer]) -> float:
    """Share of zeros in the weights of all layers."""
    weights = [module.weight(layer) for layer in layers]
    return sum(int((weight == 0).sum()) for weight in weights) / max(sum(weight.numel() for weight in weights), 1)


def _device() -> torch.device:
    """A GPU where there is one; on processors, algorithms that give the same result every time."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory takes time, and nothing here reads it uninitialised.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    if "OMP_NUM_THREADS" not in os.environ:  # torch itself obeys that variable
        torch.set_num_threads(core_count())
    return torch.device("cpu")


def _copy(model: ModelProto) -> ModelProto:
    return ModelProto.FromString(model.SerializeToString())
