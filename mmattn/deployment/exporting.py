"""Writing an ONNX file: the graph recorded, described, checked against eager mode, and only then kept."""
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.export import Dim

from mmattn import __version__
from mmattn.config import check_scope, is_segmentation
from mmattn.datasets.batch import quiet
from mmattn.datasets.scenes import scene
from mmattn.deployment.checking import Difference, differences, of_numbers
from mmattn.deployment.description import Description, Padding, Preprocessing
from mmattn.deployment.graphs import DetectorGraph, SegmentorGraph, means_by_products
from mmattn.deployment.preprocessing import as_tested, default_size, with_fixed_size, with_least_size
from mmattn.deployment.runtime import ADVICE, OnnxModel, normalised
from mmattn.deployment.suppression import translations
from mmattn.errors import UsageError, some
from mmattn.inference.inferencer import Inferencer

INPUT = 'image'
MORE = 32           # pixels by which a side is longer where the maps of all strides are to be
LEAST = 256         # of a free side: the last of four stages has more than one window of 7 then
MEANINGS = dict(boxes='x1, y1, x2, y2 in pixels of the input; for those of the image, times its width / the width that '
                      'it was resized to, and the same with heights; zeros behind the last detection',
                scores='of the detections, the surest first; 0 behind the last one',
                labels='index of the class; -1 behind the last detection')
RAW = dict(boxes='x1, y1, x2, y2 in pixels of the input, before suppression',
           scores='of each class, before thresholds and suppression')
MAPS = dict(labels='index of the class of each pixel of the input', logits='of each class at each pixel of the input')


class Model(NamedTuple):
    """What is exported.

    Args:
        net: the model, in evaluation mode on a CPU.
        cfg: its config.
        name: of the model.
        classes: their names.
        checkpoint: the file of the weights, or 'random'.
    """
    net: Any
    cfg: Config
    name: str
    classes: Sequence[str]
    checkpoint: str

    @classmethod
    def read(cls, config: str, checkpoint: str, **settings: Any) -> 'Model':
        """A config with a checkpoint; settings are those of `Inferencer`, such as `options`."""
        found = Inferencer(config, checkpoint, device='cpu', **settings)
        check_scope(found.cfg, 'exported')
        return cls(found.net, found.cfg, found.name, found.classes, checkpoint)


@dataclass(frozen=True)
class Options:
    """How it is exported.

    Args:
        size: (height, width) of the input; None for that of the tests.
        batch_size: images of the input.
        dynamic: height and width are free.
        raw: detections before suppression.
        output: of a segmentor, 'labels' or 'logits'.
        opset: of ONNX; None for the one that the installed PyTorch writes best.
    """
    size: tuple[int, int] | None = None
    batch_size: int = 1
    dynamic: bool = False
    raw: bool = False
    output: str = 'labels'
    opset: int | None = None


def export(model: Model, file: str | os.PathLike[str], options: Options | None = None) -> list[Difference]:
    """Write a model as an ONNX file, with a JSON file beside it that describes it.

    Args:
        model: what is exported.
        file: where to; it is written anew only when the check is passed.
        options: how.

    Returns:
        How far each output is from eager mode, on a scene and on noise.

    Raises:
        UsageError: a package is missing; the model, or a layer of it, cannot be exported; an output differs too much.
    """
    options, path = options or Options(), Path(file)
    check_packages()
    if path.suffix != '.onnx':
        raise UsageError(f'{path}: the name of the file must end in .onnx')
    graph: DetectorGraph | SegmentorGraph
    if is_segmentation(model.cfg):
        graph = SegmentorGraph(model.net, options.output, maps=True)
    else:
        graph = DetectorGraph(model.net, options.raw, options.dynamic, maps=True)
    if options.dynamic and isinstance(graph, SegmentorGraph) and graph.slides:
        raise UsageError("test_cfg.mode='slide' cuts windows for one size: leave --dynamic out, or choose "
                         "--cfg-options model.test_cfg.mode=whole")
    size, rules = preparation(model, options)
    image = torch.from_numpy(np.concatenate([example(rules, size)] * options.batch_size))
    program = recorded(graph, image, rules.pad if options.dynamic else None, options.opset)
    described = description(model, options, rules, graph, image, program)
    program.model.metadata_props.update(described.to_metadata())
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as draft:
        program.save(draft)
        found = checked(draft, graph, image, path)
        del program.model.graph.outputs[len(graph.outputs):]        # those for the check alone
        program.save(draft)
        OnnxModel(draft)
        os.replace(draft, path)
    sidecar = path.with_suffix('.json')
    with unfinished(sidecar) as draft:
        draft.write_text(described.to_json())
        os.replace(draft, sidecar)
    return found


def check_packages() -> None:
    """Raise UsageError where one is missing that export needs."""
    missing = []
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UsageError(f'{", ".join(missing)} is missing: {ADVICE}')


def preparation(model: Model, options: Options) -> tuple[tuple[int, int], Preprocessing]:
    """(height, width) of the input that is recorded, and how inputs are made."""
    rules = as_tested(model.cfg, model.net.data_preprocessor)
    size = rules.pad.size(*options.size) if options.size else default_size(rules, model.net.data_preprocessor)
    return size, with_least_size(rules, min(LEAST, *size)) if options.dynamic else with_fixed_size(rules, size)


def example(rules: Preprocessing, size: tuple[int, int]) -> np.ndarray:
    """A generated scene of a size (height, width), as an input (1, 3, height, width)."""
    return np.ascontiguousarray(normalised(scene('validation', 0, size)[0], rules).transpose(2, 0, 1)[None])


def recorded(graph: Any, image: Tensor, free: Padding | None, opset: int | None) -> Any:
    """The graph as PyTorch's exporter writes it.

    Args:
        graph: what is recorded.
        image: an input.
        free: what images of a free size are padded to; None for the size of the image.
        opset: of ONNX.

    Raises:
        UsageError: a layer cannot be exported.
    """
    with quiet(), torch.no_grad(), free_sizes(), means_by_products() if free else nullcontext():
        try:
            shapes = dict(image=sides(free)) if free else None
            program = torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)
            return torch.onnx.export(
                program, input_names=[INPUT], output_names=graph.outputs, dynamo=True, optimize=True,
                opset_version=opset, custom_translation_table=translations(), verbose=False)
        except Exception as error:      # of many classes, from anywhere in PyTorch's exporter
            layer = culprit(graph.net, image, free) or type(graph.net).__name__
            raise UsageError(f'{layer} cannot be exported{limits(graph.net, image, free)}: {reason(error)}') from error


def limits(net: Any, image: Tensor, free: Padding | None) -> str:
    """In which size a model cannot be exported, and what may help."""
    if free is None:
        return ''
    least = min(free.size(1, 1))
    advice = '' if culprit(net, image, None) else '; a fixed size can, without --dynamic'
    larger = ', and a larger --shape may help' if least < LEAST else ''
    return f' with a height and width that are free from {least} pixels on{advice}{larger}'


def sides(free: Padding) -> dict[int, Any]:
    """A free height and width as PyTorch takes them: as long as those of the smallest padded image, or longer."""
    height, width = free.size(1, 1)
    return {2: side('height', free.divisor, height), 3: side('width', free.divisor, width)}


def side(name: str, divisor: int, least: int) -> Any:
    if divisor == 1:
        return Dim(name, min=least)
    return divisor * Dim(f'{name}_by_{divisor}', min=least // divisor)


def free_sizes() -> AbstractContextManager[Any]:
    """Let PyTorch record a free side without asking whether it is 1, as its own exporter to ONNX does."""
    from torch.fx.experimental import _config
    settings: Any = _config
    return settings.patch(backed_size_oblivious=True) if hasattr(settings, 'backed_size_oblivious') else nullcontext()


def reason(error: BaseException) -> str:
    """The first line that says something, of the error at the root."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {some(lines, 1)}'[:300]


def culprit(net: Any, image: Tensor, free: Padding | None) -> str:
    """The innermost layer that cannot be exported by itself, as 'address (class)'; '' where every one can."""
    inputs = inputs_of(net, image)
    more = free and max(free.divisor, MORE)
    others = inputs_of(net, nn.functional.pad(image, (0, more, 0, more))) if more else inputs
    found, layers = '', dict(net.named_modules())
    for address, x in inputs.items():       # from the outside in: a layer follows the one that holds it
        if found and not address.startswith(found):
            break
        sides = [i for i, pair in enumerate(zip(x.shape, others.get(address, x).shape)) if len(set(pair)) > 1]
        if not exports(layers[address], x, sides):
            found = address + '.'
    return f'{found[:-1]} ({type(layers[found[:-1]]).__name__})' if found else ''


def inputs_of(net: Any, image: Tensor) -> dict[str, Tensor]:
    """What each layer below the heads of a model gets for an image, of those that get one tensor, in their order. It
    ends with a layer that fails."""
    inputs: dict[str, Tensor] = {}

    def note(address: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor):
                inputs.setdefault(address, args[0])
        return hook
    handles = [layer.register_forward_pre_hook(note(address)) for address, layer in net.named_modules() if address]
    try:
        features = net.extract_feat(image)
        if hasattr(net, 'bbox_head'):
            net.bbox_head(features)
    except RuntimeError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def exports(layer: nn.Module, x: Tensor, sides: Sequence[int]) -> bool:
    """Whether PyTorch records a layer whose input has these sides free."""
    try:
        with free_sizes():
            torch.export.export(layer, (x,), dynamic_shapes=(dict.fromkeys(sides, Dim.DYNAMIC),), strict=False)
    except Exception:       # of many classes
        return False
    return True


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name beside a file for the time until it is whole; what is left under it is removed."""
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def description(model: Model, options: Options, rules: Preprocessing, graph: Any, image: Tensor,
                program: Any) -> Description:
    """What the file says of itself."""
    sides: list[Any] = ['height', 'width'] if options.dynamic else list(image.shape[2:])
    detector = isinstance(graph, DetectorGraph)
    limits = graph.limits if detector else None
    import onnx
    return Description(
        model=model.name, task='detection' if detector else 'segmentation', classes=tuple(model.classes),
        input=dict(name=INPUT, shape=[len(image), 3, *sides], dtype='float32'), preprocessing=rules,
        outputs=tuple(outputs_of(graph, len(image), sides, len(model.classes))),
        suppression=limits and dict(
            score_threshold=limits.score, candidates_of_a_level=limits.nms_pre,
            **({} if graph.raw else dict(overlap=limits.overlap, detections=limits.most,
                                         class_agnostic=limits.class_agnostic))),
        checkpoint=fingerprint(model.checkpoint),
        versions=dict(mmattn=__version__, torch=torch.__version__, onnx=onnx.__version__,
                      opset=program.model.opset_imports['']))


def outputs_of(graph: Any, batch: int, sides: list[Any], classes: int) -> Iterator[dict[str, Any]]:
    """Name, shape, dtype and meaning of each output."""
    for name in graph.outputs:
        dtype = 'int64' if name == 'labels' else 'float32'
        if isinstance(graph, SegmentorGraph):
            shape, meaning = [batch, *([classes] if name == 'logits' else []), *sides], MAPS[name]
        elif graph.raw:
            shape, meaning = [batch, 'locations', 4 if name == 'boxes' else classes], RAW[name]
        else:
            shape, meaning = [batch, graph.limits.most, *([4] if name == 'boxes' else [])], MEANINGS[name]
        binary = dict(threshold=graph.threshold) if name == 'logits' and classes == 1 else {}
        yield dict(name=name, shape=shape, dtype=dtype, meaning=meaning, **binary)


def fingerprint(checkpoint: str) -> dict[str, Any]:
    """The name of a file and its SHA-256; None for weights without a file."""
    path = Path(checkpoint)
    if not path.is_file():
        return dict(file=checkpoint, sha256=None)
    return dict(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def run(session: Any, image: np.ndarray, failure: str) -> list[np.ndarray]:
    """The outputs of a session.

    Raises:
        UsageError: onnxruntime cannot run the graph.
    """
    try:
        return session.run(None, {INPUT: image})
    except Exception as error:      # of classes that onnxruntime does not name
        if not type(error).__module__.startswith('onnxruntime'):
            raise
        raise UsageError(f'{failure}: {reason(error)}') from error


def checked(draft: Path, graph: Any, image: Tensor, path: Path) -> list[Difference]:
    """How far the outputs of a file are from eager mode.

    Raises:
        UsageError: too far, or it is no valid ONNX.
    """
    import onnx
    onnx.checker.check_model(str(draft), full_check=True)
    runner = OnnxModel(draft)
    images = dict(scene=image, noise=torch.randn(image.shape, generator=torch.Generator().manual_seed(0)))
    if runner.description.size is None:
        pad = runner.description.preprocessing.pad
        images['a larger scene'] = nn.functional.pad(image, (0, pad.divisor, 0, 2 * pad.divisor))
        images['the smallest scene'] = image[..., :pad.height, :pad.width]
    found: list[Difference] = []
    for name, one in images.items():
        with torch.no_grad():
            wanted = [output.numpy() for output in graph(one)]
        outputs = run(runner.session, one.numpy(), f'{path} is not kept, onnxruntime fails on {name}')
        found += differences(dict(zip(graph.outputs, outputs)), dict(zip(graph.outputs, wanted)), name,
                             graph.limits.score if isinstance(graph, DetectorGraph) and not graph.raw else 0.0)
        maps = zip(outputs[len(graph.outputs):], wanted[len(graph.outputs):], strict=True)
        found += sorted((of_numbers('maps of the head', *pair, name) for pair in maps), key=lambda one: one.share)[-1:]
    wrong = [str(one) for one in found if one.share > 1]
    if wrong:
        raise UsageError(f'{path} is not kept, onnxruntime differs from eager mode: {some(wrong)}')
    return found
