"""What the networks of localization share as tasks of the training loop."""

from __future__ import annotations

import logging
from abc import abstractmethod

from resdet.config.localization import LocalizationConfig
from resdet.data.loader import TrainPlan
from resdet.data.resumed import Resumed
from resdet.engine import distributed, pictures
from resdet.engine.detection import describe_data, findings_of, record_of
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_detection import check_classes
from resdet.engine.evaluate_localization import evaluate_localizer, make_loc_evaluator
from resdet.engine.signals import StopRequest
from resdet.engine.task import Task
from resdet.engine.validation import Validation
from resdet.factory.backbone import check_frozen
from resdet.factory.build import load_start_weights
from resdet.factory.detection_data import DataSets
from resdet.factory.imports import naming_imports
from resdet.factory.localization import build_localizer
from resdet.factory.localization_data import build_localization_data
from resdet.factory.network import resolve_config
from resdet.hardware import Precision
from resdet.inference.localization import Guesser
from resdet.models.region_classifier import AnyLocalizer

logger = logging.getLogger("resdet")


class LocalizationTask(Task):
    """What the networks of localization share: images, start weights, validation."""

    kind = "localizer"
    config: LocalizationConfig
    model: AnyLocalizer

    def __init__(
        self,
        config: LocalizationConfig,
        processes: Processes,
        *,
        is_new: bool,
        strict: bool,
        decode_all: bool,
        resumed: Resumed | None = None,
    ) -> None:
        """Data and model; with its start weights where the run `is_new`. `resumed` is the choice of
        images of a run that is resumed.

        UserError for whatever would make the run fail later.
        """
        start = resolve_config(config)
        self.config = config = start.config
        data = load_data(config, resumed=resumed, strict=strict, decode_all=decode_all)
        self.train_data, self.val_data, self.split = data.train, data.val, data.split
        names, ids = self.train_data.class_names, self.train_data.category_ids
        with naming_imports(config):
            self.model = build_localizer(config, class_names=names, category_ids=ids)
        distributed.check_norms(self.model, processes)
        if is_new:
            check_frozen(config, self.model.backbone)
            for line in load_start_weights(self.model, start):
                logger.info(line)
        if self.val_data is not None:  # an unknown metric fails now, not after an epoch
            make_loc_evaluator(config, self.val_data)
        self.processes, self.class_names, self.category_ids = processes, names, ids
        self.record, self.findings = record_of(data), findings_of(data)
        self.plan = TrainPlan(
            num_images=len(self.train_data),
            batch_size=config.train.images_per_step,
            seed=config.train.seed,
        )
        self.prepare_data()

    @abstractmethod
    def prepare_data(self) -> None:
        """Set `collate` and whatever else the network's training data need, once the model is
        there."""

    @abstractmethod
    def guesser(self, workers: int) -> Guesser:
        """What is validated: the network with its test settings."""

    def validate(
        self, precision: Precision, workers: int, stop: StopRequest | None
    ) -> Validation | None:
        assert self.val_data is not None, "validation without data.val"
        return evaluate_localizer(
            self.guesser(workers),
            self.val_data,
            make_loc_evaluator(self.config, self.val_data),
            processes=self.processes,
            precision=precision,
            batch_size=self.config.eval.batch_size,
            workers=workers,
            stop=stop,
            num_pictures=pictures.MAX_IMAGES,
        )

    def largest_area(self) -> int:
        return self.config.data.size**2


def load_data(
    config: LocalizationConfig, *, resumed: Resumed | None, strict: bool, decode_all: bool
) -> DataSets:
    """Training and validation data, counted in the log; `resumed` is a resumed run's choice."""
    data = build_localization_data(config, resumed=resumed, strict=strict, decode_all=decode_all)
    describe_data("data.train", data.train)
    if data.val is not None and config.data.val_files is not None:
        describe_data("data.val" if data.split is None else "held out", data.val)
        source = str(config.data.val_files.annotations)
        check_classes(data.val, data.train.class_names, source)
    return data
