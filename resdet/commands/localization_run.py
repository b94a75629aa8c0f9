"""The part of `resdet eval-imagenet --task loc` that runs networks: localizers and classifiers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from resdet import hardware
from resdet.commands.evaluate_run import folder_of, folder_of_part
from resdet.commands.loc_options import LocOptions
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.localization.dataset import TestImage
from resdet.engine.evaluate_localization import Wanted
from resdet.engine.localization_runs import evaluate_localization_run
from resdet.errors import UserError
from resdet.evaluation import Result
from resdet.factory import load_classifier
from resdet.files.findings import DataError
from resdet.inference.class_guesses import class_guesses
from resdet.interop.weights import check_spec
from resdet.models.classifier import Classifier
from resdet.models.predict import precision_of
from resdet.models.views import Views, make_views

logger = logging.getLogger("resdet")


def evaluate_loc_runs(
    runs: Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    options: LocOptions,
    device: str | None = None,
    precision: str | None = None,
    strict: bool = False,
) -> tuple[Result, Path]:
    """The localization error of one run, or of the ensemble of several, on its data.val; and the
    folder for the results.

    Each image gets one box for each of the five best classes of the classifiers, or one for its
    true class. `overrides` are those of `evaluate_localization_run`. Raises UserError for what does
    not belong together, before anything is computed.
    """
    oracle, classifiers = options.oracle, options.classifiers
    crops, scales = options.crops, options.scales
    if oracle == bool(classifiers):
        both = "both are given" if oracle else "neither is given"
        raise UserError(
            "--task loc needs the classes of the images: give --classifier RUN, whose five best "
            f"are taken, or --oracle for the true class; {both}"
        )
    if oracle and (crops != "1" or scales):
        raise UserError("--crops and --scales belong to --classifier; leave them out with --oracle")
    for spec in [*map(str, runs), *classifiers]:
        if Path(spec).suffix == ".npz":
            raise UserError(
                f"{spec}: is a proposals file; give it as --proposals, beside the run of an R-CNN"
            )
        check_spec(spec)
    asking = None
    if classifiers:
        asking = _Asking(classifiers, crops, scales, device=device, precision=precision)
    config, validation = evaluate_localization_run(
        runs,
        overrides,
        proposals=options.proposals,
        ask=asking,
        device=device,
        precision=precision,
        strict=strict,
    )
    result = validation.result
    result.summary["classes"] = "true class" if oracle else f"top 5 of {', '.join(classifiers)}"
    names = [folder_of(run).name for run in runs]
    own = Path("runs") / f"eval_{'+'.join(names)}"[:100]
    if len(runs) == 1:
        own = folder_of_part(runs[0], config)
    return result, own


class _Asking:
    """Asks classifiers for the classes of all images, before the localizers run.

    Raises UserError for what is not a classifier, and for views that cannot be cut.
    """

    def __init__(
        self,
        specs: Sequence[str],
        crops: str,
        scales: Sequence[int] | None,
        *,
        device: str | None,
        precision: str | None,
    ) -> None:
        self.specs = list(specs)
        self.models: list[Classifier] = []
        self.views: list[Views] = []
        target = hardware.choose_device(device, 0)
        for spec in self.specs:
            model = load_classifier(spec, option="--classifier")
            self.views.append(
                make_views(
                    crops,
                    scales,
                    test_resize=model.test_resize,
                    test_size=model.test_size,
                    interpolation=model.interpolation,
                )
            )
            model.to(target)
            model.precision = precision
            model.place(target, precision_of(model).parameters)
            self.models.append(model)

    def __call__(self, data: DetectionDataset, class_names: list[str]) -> Wanted:
        """The five best classes of each image, as labels of the localizers."""
        config = self.models[0].config
        assert config is not None, "load_classifier sets it"
        logger.info(f"{', '.join(self.specs)}: classifying {len(data)} images")
        guesses, broken = class_guesses(
            self.models,
            self.views,
            data,
            class_names,
            batch_size=config.eval.batch_size,
            workers=max(1, hardware.default_workers(config.data.workers, 1)),
        )

        def wanted(image: TestImage) -> Tensor:
            if image.index in broken:
                raise DataError(broken[image.index])
            return guesses[image.index]

        return wanted
