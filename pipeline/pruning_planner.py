"""A strategy before one network: what its flags leave open is found and checked, and comes to one decision."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Self

from models import build
from pipeline.pruning_measure import SAYS_SOMETHING, Measure
from pipeline.session import Session
from utils.config.prune import AUTO, BlocksConfig, ChannelConfig, PruneConfig, RegularConfig
from utils.darknet.counts import count, parameters
from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.errors import InputError, UnsurvivableError
from utils.export.engine.price import clocks_of_spec, engine_for_spec
from utils.export.engine.target import Engine
from utils.pruning import criteria
from utils.pruning.bias_carrier import appoint, settle_and_cut
from utils.pruning.blocks import shorten
from utils.pruning.choices import Beta, By
from utils.pruning.layer_plan import plan_layers
from utils.pruning.plan import Plan, PlanRules, plan_channels
from utils.pruning.preflight import Preflight, check, preflight
from utils.pruning.scope import parse_scope
from utils.pruning.scores import Score
from utils.pruning.search import search
from utils.pruning.strategy import CutDecision, CutStep, Strategy
from utils.pruning.target import auto_percent, percent_for

log = logging.getLogger(__name__)

SURVIVABLE = 0.5  # of the headline: a cut that leaves less is no start for fine-tuning
TAYLOR_BATCHES = 20  # of training images, for the gradients


@dataclass(frozen=True)
class PruningPlanner:
    """A strategy before one network.

    ``first`` is the network before all cuts of ``--iterative``; ``force`` goes on where the gammas say that it will not
    survive.
    """

    measure: Measure
    strategy: Strategy
    full: Network
    first: Network
    step: CutStep = field(default_factory=CutStep)
    force: bool = False

    @property
    def session(self) -> Session[PruneConfig]:
        """Data and flags."""
        return self.measure.session

    @property
    def channels(self) -> ChannelConfig:
        """The flags of a script that cuts channels."""
        config = self.session.config
        assert isinstance(config, ChannelConfig), "a strategy with a rule for shortcuts cuts channels"
        return config

    @cached_property
    def score(self) -> Score:
        """The judge that ``--score`` names."""
        config = self.session.config
        if config.score == "taylor":
            return taylor_of(self.session, self.full).score
        return criteria.random(config.seed) if config.score == "random" else criteria.CRITERIA[config.score]

    @cached_property
    def rules(self) -> PlanRules:
        """The strategy as the planner takes it."""
        assert self.strategy.tie is not None
        return {
            "tie": self.strategy.tie,
            "floor": self.strategy.floor,
            "multiple": self.strategy.multiple,
            "score": self.score,
            "scope": parse_scope(self.channels.scope, self.full.spec),
        }

    @cached_property
    def engine(self) -> Engine:
        """What ``--target`` has room for, chosen for the network before all cuts."""
        return engine_for_spec(self.session.config.target or "generic", self.first.spec, self.session.size).best.engine

    def clocks(self, spec: ModelSpec) -> int:
        """Of a frame, as predicted for that engine."""
        return clocks_of_spec(spec, self.session.size, self.engine)

    @property
    def priced(self) -> bool:
        """Whether somebody asked for clocks."""
        config = self.session.config
        return bool(config.target) or config.target_cycles is not None

    def fitted(self) -> Self:
        """The strategy as the engine wants it: channels in its words, as many blocks as the clocks ask for.

        Raises:
            InputError: the network cannot run on the engine, or the clocks are out of reach.
        """
        config, strategy = self.session.config, self.strategy
        if isinstance(config, RegularConfig) and config.target and "multiple" not in config.given:
            strategy = replace(strategy, multiple=self.engine.lanes)
            log.info("--multiple %d: a word of the engine; fewer channels in it save no clocks", strategy.multiple)
        if isinstance(config, BlocksConfig) and strategy.tie is None and config.target_cycles is not None:
            strategy = replace(strategy, blocks=self._blocks_for(config.target_cycles))
        return replace(self, strategy=strategy)

    def _blocks_for(self, asked: float) -> int:
        """The fewest blocks without which a frame takes so many clocks."""
        full = self.clocks(self.full.spec)
        budget, config, n, least = asked * full if asked <= 1 else asked, self.session.config, 0, full
        assert isinstance(config, BlocksConfig)
        while least > budget:
            try:
                layers = plan_layers(self.full, n=n + 1, score=self.score, by=By[config.by.upper()])
            except InputError as error:
                if n == 0:
                    raise  # there is no block at all, which says itself what helps
                reached = f"{least:,} of {full:,} clocks ({least / full:.1%}) without {n} blocks"
                raise InputError(
                    f"--target-cycles {asked:g}: out of reach; {reached} and no more can go; ask for less, or use "
                    "layer_channel_prune.py"
                ) from error
            n, least = n + 1, self.clocks(shorten(self.full.spec, layers.gone).spec)
        log.info("%d blocks reach the target: %s of %s clocks", n, f"{least:,}", f"{full:,}")
        return n

    def decision(self) -> CutDecision:
        """What this network is cut by.

        Raises:
            InputError: the network would not survive it, or a budget is out of reach.
        """
        config, channels, blocks, beta = self.session.config, None, None, Beta.DROP
        if self.strategy.tie is not None:
            channels, beta = self._channels(), Beta(self.channels.beta)
        if self.strategy.blocks:
            assert isinstance(config, BlocksConfig), "a strategy that takes blocks out is told by what they go"
            n = self.step.blocks(self.strategy.blocks)
            blocks = partial(plan_layers, n=n, score=self.score, by=By[config.by.upper()])
        return CutDecision(channels, blocks, beta)

    def _channels(self) -> Callable[[Network], Plan]:
        """Which channels stay: at a percent that is found and checked, or as a search found best."""
        if self.channels.search:
            found = self._searched()
            return lambda net: found
        percent = self._percent()
        self.judged(percent)
        return partial(plan_channels, percent=percent, **self.rules)

    def planned(self, percent: float) -> Plan:
        """Which channels stay at this percent, asked of nobody."""
        return plan_channels(self.full, percent=percent, **self.rules)

    @cached_property
    def found(self) -> Preflight:
        """What the gammas say before anything is asked of them."""
        return preflight(self.full, **self.rules)

    def judged(self, percent: float) -> Preflight:
        """The pre-flight, told; |gamma| says nothing about what other scores cut, so only emptied layers stop those."""
        forced = self.channels.force or self.force or self.channels.score != "gamma"
        found = check(self.full, percent=percent, force=forced, **self.rules)
        log.info("%.0f %% of |gamma| are under 0.01; by them alone percent %.2f costs next to nothing, %.2f keeps half "
                 "of the signal, from %.2f on some layer has nothing above the threshold",
                 100 * found.near_zero, found.safe, found.survivable, found.limit)  # fmt: skip
        return found

    def check_left(self, before: float, left: float) -> None:
        """Say whether the cut is survivable, by what is left of the headline on recalibrated statistics.

        Args:
            before: of the network before the cut, on the validation images.
            left: of the cut one.

        Raises:
            UnsurvivableError: less than half of it is left; with the largest percent that was measured to leave more.
        """
        heading = self.session.heading
        if before < SAYS_SOMETHING:
            log.info("%s %.4f before the cut: too little to say what is survivable", heading, before)
            return
        survives = left >= SURVIVABLE * before
        fact = f"{heading} {left:.4f} of {before:.4f} is left on recalibrated statistics"
        log.info("%s: %s", fact, "survivable" if survives else "not survivable")
        if survives or self.session.config.force or self.force:
            return
        raise UnsurvivableError(f"{fact}, so it is not survivable; {self._smaller(before)}, or --force goes on")

    def _smaller(self, before: float) -> str:
        """What would be survivable, measured."""
        config = self.session.config
        if self.strategy.tie is None or not isinstance(config, ChannelConfig) or not isinstance(config.percent, float):
            return "cut less"
        log.info("looking for a percent that is survivable")
        try:
            percent, trace = auto_percent(
                self._left, before=before, max_drop=(1 - SURVIVABLE) * before, high=self.step.percent(config.percent)
            )
        except InputError:
            return "no smaller percent is, so make it sparser first: train.py -sr --prune 1"
        return f"--percent {percent:.2f} is ({self.session.heading} {dict(trace)[percent]:.4f})"

    def _left(self, percent: float) -> float:
        """The headline of what a percent leaves, on recalibrated statistics."""
        return self.measure.headline(self.measure.better(self.made(self.full, self.planned(percent)))[0])

    def _left_by(self, percent: float) -> float:
        """The same on the images that may decide."""
        return self.measure.left_by(self.made(self.full, self.planned(percent)))

    def made(self, net: Network, plan: Plan) -> Network:
        """The cut network, constants taken over as ``--beta`` says."""
        return settle_and_cut(net, plan, Beta(self.channels.beta))[0]

    def _percent(self) -> float:
        """The percent that is given, or found: by a budget, or by what the metric may lose."""
        config = self.channels
        if any(each is not None for each in (config.target_macs, config.target_params, config.target_cycles)):
            size, spec = self.session.size, self.first.spec
            macs = self.step.budget(config.target_macs, count(spec, size).macs)
            params = self.step.budget(config.target_params, parameters(spec))
            clocks = None if config.target_cycles is None else self.step.budget(config.target_cycles, self.clocks(spec))
            found = percent_for(
                self.full,
                plan_of=self._whole_plan,
                macs=macs,
                params=params,
                clocks=clocks,
                clocks_of=self.clocks,
                size=size,
            )
            log.info("percent %.4f reaches the target", found)
            return found
        if config.percent != AUTO:
            return self.step.percent(float(config.percent))
        before, seen = self.measure.before(self.full), self.measure.seen
        one_image = 1 / seen if seen else 0.0  # no finer can so many tell a drop (docs/decisions/023)
        percent, trace = auto_percent(
            self._left_by,
            before=before,
            max_drop=config.max_drop + one_image,
            high=self.found.survivable if not config.force else 0.99,
        )
        tried = ", ".join(f"{tried:.2f}: {value:.4f}" for tried, value in trace)
        log.info("%s %s: %.4f before; tried %s; percent %.2f holds",
                 self.session.heading, self.measure.where, before, tried, percent)  # fmt: skip
        return percent

    def _whole_plan(self, percent: float) -> Plan:
        """Carriers included: they count in a budget."""
        plan = self.planned(percent)
        return appoint(self.full, plan) if Beta(self.channels.beta) is Beta.CARRIER else plan

    def _searched(self) -> Plan:
        config, size = self.channels, self.session.size
        if config.target_macs is None:
            raise InputError("--search: needs a budget; add --target-macs 0.5 for half of the MACs")
        full = count(self.full.spec, size).macs
        rules = self.rules if config.score != "gamma" else PlanRules(**{**self.rules, "score": criteria.l1})
        found = search(
            self.full,
            candidates=config.search,
            remain=config.target_macs if config.target_macs <= 1 else config.target_macs / full,
            delta=config.delta,
            measure=self.measure.headline,
            recalibrate=self.measure.recalibrated,
            macs=lambda spec: count(spec, size).macs,
            seed=config.seed,
            make=self.made,
            **rules,
        )
        for each in found.trace:
            mark = "  <- kept" if each.number == found.best else ""
            log.info("candidate %d: %.1f %% of the MACs, %s %.4f%s",
                     each.number, 100 * each.macs / full, self.session.heading, each.metric, mark)  # fmt: skip
        return found.plan


def taylor_of(session: Session[PruneConfig], net: Network) -> criteria.TaylorScore:
    """Gradients of the task's loss on training images, batch norm in eval mode."""
    model = build(net).to(session.device)
    loss = session.task.loss(net.spec)
    collected = criteria.TaylorScore()
    for batch in session.training_batches(TAYLOR_BATCHES):
        model.zero_grad(set_to_none=True)
        loss(model(session.task.inputs(batch, session.device)), batch)["total"].backward()
        collected.collect(model)
    return collected
