"""Train: fit a scorer or a policy, export it, evaluate it, write the report.

The order of a run, and of taking it up again:
  1. restore the newest sound state of this workdir, else initialise;
  2. go through the steps; a step's batch and dropout depend on its number alone;
  3. save the last state, export the model;
  4. evaluate and report.

What differs between a scorer and a policy stands in `kinds`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prm_jax import checkpoint, files, objectives, tensors, writer
from prm_jax.data.batches import Batches
from prm_jax.errors import Preempted, UserError
from prm_jax.jobs import assemble, kinds, measure, together
from prm_jax.jobs.configuration import Command, build
from prm_jax.models import weights
from prm_jax.parallel import distributed, plan, sharding
from prm_jax.parallel import mapper as mapping
from prm_jax.parallel import mesh as meshes
from prm_jax.training import optimizer, parts, preemption, state, step
from prm_jax.training import start as starts

# Rows of metrics.jsonl with these are drawn in the report.
CURVES = ('train/loss', 'validation/')


@dataclasses.dataclass
class Window:
  """Sums since the last logged step; saved with a state, so that a resumed run logs
  what an uninterrupted one does.

  Attributes:
    loss_sum, weight: of all rows.
    grad_norm: sum over n steps.
    source_loss_sum, source_weight: one a source, [] with a single one.
  """

  loss_sum: float = 0.0
  weight: float = 0.0
  grad_norm: float = 0.0
  n: int = 0
  source_loss_sum: list[float] = dataclasses.field(default_factory=list)
  source_weight: list[float] = dataclasses.field(default_factory=list)

  def add(self, metrics: Mapping[str, np.ndarray]) -> None:
    weight = float(metrics['weight'])
    self.loss_sum += float(metrics['loss']) * weight
    self.weight += weight
    self.grad_norm += float(metrics['grad_norm'])
    self.n += 1
    for name in ('source_loss_sum', 'source_weight'):
      if name in metrics:
        new = np.asarray(metrics[name], np.float64)
        held = getattr(self, name) or [0.0] * len(new)
        setattr(self, name, (np.asarray(held) + new).tolist())

  def means(self, sources: Sequence[str]) -> dict[str, float]:
    out = {
      'train/loss': _ratio(self.loss_sum, self.weight),
      'train/grad_norm': self.grad_norm / max(self.n, 1),
    }
    for name, loss, weight in zip(sources, self.source_loss_sum, self.source_weight):
      out[f'train/loss[{name}]'] = _ratio(loss, weight)
    return out


def _ratio(total: float, weight: float) -> float:
  return total / weight if weight else float('nan')


def _saved(held: Any) -> Any:
  """What a checkpoint holds of a state: all but the frozen weights."""
  return dataclasses.replace(held, frozen=None)


def run(command: Command) -> None:
  """Trains, or takes up the run of this workdir where it was.

  Raises:
    UserError: config, data or workdir cannot be used.
    NonFiniteLoss: a step's loss or gradient is not finite.
    Preempted: asked to stop; the state is saved.
  """
  config = command.config
  started = time.monotonic()
  with together.open_workdir(command) as work:
    results = distributed.share(work.read_json('results.json'))
    if results and results['provenance'].get('steps') == config.train.steps:
      writer.say(f'{work.path}: this run is complete; see report.html and results.json')
      return
    run = Run(command, work)
    if config.plan_only:
      if jax.process_index() == 0:
        print(run.plan())
      return
    writer.say(run.plan())
    params = run.fit()
    # Every process takes part in gathering sharded parameters; one writes.
    digest = run.kind.export(work / run.kind.folder, params)
    params = run.gather(params)
    with distributed.lead(config.parallel.wait_seconds) as first:
      if first:
        run.finish(params, digest, started)


class Run:
  """The parts of one training run, put together from its config.

  Attributes:
    work: its workdir.
    kind: what is trained, with its network and evaluation sets.
    data: training rows.
    batches: batches[step] -> arrays.
  """

  def __init__(self, command: Command, work: files.Workdir):
    config = self.config = command.config
    self.command = command
    self.work = work
    self.kind = kinds.choose(config)
    self.start = assemble.start(config)
    if self.start:
      starts.check_head(self.start, self.kind.head)
    self.mesh = meshes.make_mesh(
      config.parallel.data, config.parallel.fsdp, config.parallel.tensor
    )
    meshes.check_fits(
      self.mesh, self.kind.model, config.train.batch_size, config.train.accumulation
    )
    # The first process builds the cache; the others find it, or build their own.
    with distributed.lead(config.parallel.wait_seconds):
      self.data = self.kind.load(config.data.cache_dir or work / 'cache')
    for note in self.data.cache.notes:
      writer.say(note)
    process, processes = meshes.batch_process(self.mesh)
    self.batches = Batches(
      self.data.cache,
      seed=config.seed,
      batch_size=config.train.batch_size,
      of=self.kind.learns,
      source_weights=self.data.source_weights,
      packing=config.data.packing,
      pack_lengths=config.data.pack_lengths,
      share_question=config.data.share_question,
      process_index=process,
      process_count=processes,
    )
    self.data = self.data.with_usage(self.batches.usage)
    self.votes = distributed.Votes(2)  # stop? save, because time has passed?
    self._build()
    self.keeper = checkpoint.Checkpointer(
      work / 'checkpoints',
      build(checkpoint.CheckpointPolicy, 'checkpoint', config.checkpoint),
    )
    self.metrics = writer.MetricWriter(work.path, config.logging.tensorboard)
    self.curve: list[dict[str, Any]] = []

  def _build(self) -> None:
    """The mapped train step and the state's shape and place."""
    config, model, head = self.config, self.kind.model, self.kind.head
    chosen, hyper = assemble.objective(config)
    pmapped = config.parallel.mapper == 'pmap'
    self.parts = assemble.divided(config, weights.declare(model, head))
    self.tx, _ = optimizer.make(assemble.optimizer(config))
    unit = config.objective.unit or None

    # pmap sees one device at a time: there is nothing to constrain.
    options = {} if pmapped else {'constrain': sharding.constrainer(self.mesh)}
    apply = self.kind.apply(**options)

    def loss(outputs, batch):
      return objectives.evaluate(chosen, outputs, batch, unit=unit, **hyper)

    train_step = step.make_train_step(
      apply, loss, self.tx,
      seed=config.seed,
      accumulation=config.train.accumulation,
      axis_name=mapping.PMAP_AXIS if pmapped else None,
      n_sources=len(self.data.cache.sources),
      combine=self.parts.whole,
    )  # fmt: skip
    place = lambda tree: sharding.param_shardings(self.mesh, tree)
    self.init_params = lambda key: weights.initialize(self.parts.trained, key)
    self.shardings = state.shardings(
      self.init_params, self.tx, place(self.parts.trained), self.mesh
    )
    self.frozen_shardings = place(self.parts.frozen) or None
    train_step = self.votes.counted(train_step)
    self.mapper: Any = (
      mapping.pmap_mapper(train_step)
      if pmapped
      else mapping.jit_mapper(
        train_step,
        self.mesh,
        dataclasses.replace(self.shardings, frozen=self.frozen_shardings),
      )
    )

  def plan(self) -> str:
    """Parameters, shardings, memory and data of the run, for people."""
    length, n_steps = max(self.batches.shapes)
    members, question = self.batches.shared_question
    table = plan.memory_plan(
      self.kind.model, self.kind.head, self.mesh,
      batch_size=self.config.train.batch_size, length=length, n_steps=n_steps,
      members=members, question=question,
      accumulation=self.config.train.accumulation,
      moment_bytes=assemble.optimizer(self.config).moment_bytes,
      trained=self.parts.trained, frozen=self.parts.frozen,
    )  # fmt: skip
    shapes = ', '.join(f'{t} tokens x {p} steps' for t, p in self.batches.shapes)
    if self.start:
      table += f'\nstarts from {self.start.folder}; {parts.table(self.parts)}'
    return (
      f'{table}\n{self.data.cache.n_rows:,} training rows, '
      f'{self.config.train.steps / self.batches.n_batches:.2f} epochs, shapes: {shapes}'
      f'\n{self.batches.usage}'
    )

  def _start(self) -> tuple[Any, int, dict[str, Any]]:
    """State, step and extras: restored if there is a sound one, else new. Frozen
    weights are read from where they came."""
    abstract = state.abstract(self.init_params, self.tx, self.shardings)
    found = self.keeper.restore(abstract)
    if found is None:
      self.origin = self.start.digest if self.start else ''
      return self._with_frozen(self._fresh()), 0, {}
    if found.note:
      writer.say(found.note)
    writer.say(f'goes on after step {found.step}')
    self.origin = found.extra.get('init_hash', '')
    if self.start and self.parts.frozen and self.start.digest != self.origin:
      raise UserError(
        f'{self.start.folder}: not the weights that this run started from (another '
        'hash), and frozen ones are read from there; put them back, or give another '
        '--workdir.'
      )
    return self._with_frozen(found.state), found.step, found.extra

  def _fresh(self) -> Any:
    """The state before the first step; weights may come from another model, the others
    are new."""
    key = jax.random.key(self.config.seed)
    if self.start is None:
      return state.init_sharded(self.init_params, self.tx, self.shardings, key)
    declared = dict(weights.flatten(self.parts.trained))
    places = tensors.flatten(self.shardings.params)
    given = [path for path in declared if starts.provides(self.start, path)]
    new = {path: w for path, w in declared.items() if path not in given}
    make = jax.jit(
      lambda key: weights.initialize(new, key),
      out_shardings={path: places[path] for path in new},
    )
    loaded = self._load(self.start, self.parts.trained, self.shardings.params, given)
    flat = {**make(key), **tensors.flatten(loaded)}
    return state.start(tensors.unflatten(flat), self.tx, self.shardings)

  def _with_frozen(self, held: Any) -> Any:
    if self.start is None or self.frozen_shardings is None:
      return held
    declared = self.parts.frozen
    every = [path for path, _ in weights.flatten(declared)]
    frozen = self._load(self.start, declared, self.frozen_shardings, every)
    return dataclasses.replace(held, frozen=frozen)

  def _load(self, start: Any, declared: Any, places: Any, paths: Sequence[str]) -> Any:
    """The weights at `paths`, with rows for added tokens."""
    wanted, where = dict(weights.flatten(declared)), tensors.flatten(places)
    return starts.load(
      start,
      tensors.unflatten({path: wanted[path] for path in paths}),
      tensors.unflatten({path: where[path] for path in paths}),
      assemble.base_tokenizer(self.config).vocab_size,
      self.kind.words.vocab_size,
    )

  def fit(self) -> Any:
    """Goes through the steps; returns the parameters that are kept."""
    config = self.config
    held, first, extra = self._start()
    lead = jax.process_index() == 0
    rows = self.metrics.cut(first) if lead else []
    self.curve = [r for r in rows if any(k.startswith(CURVES) for k in r)]
    window = Window(**extra.get('window', {}))
    held = self.mapper.place_state(held)
    clock = time.monotonic(), first
    batches = self.batches.iterate(first)
    with (
      preemption.StopSignal() as self.stop,
      writer.Progress(config.train.steps, 'train', first) as progress,
      measure.profiled(config.profile, self.work) as profile,
    ):
      waiting: tuple[int, Any] | None = None
      counted: Any = None  # metrics of the step before, which carry its votes
      for number in range(first, config.train.steps):
        profile(number)
        batch = self.votes.cast(next(batches), *self._wishes())
        held, metrics = self.mapper(held, batch)
        if waiting is not None:
          self._note(waiting, window)
        waiting = (number, metrics)
        done = number + 1
        stop, late = self.votes.read(counted, *self._wishes())
        counted = metrics
        log = done % config.logging.every_steps == 0 or done == config.train.steps
        validate = self._validates(done)
        save = self.keeper.due(done, late) or stop or done == config.train.steps
        if log or validate or save:
          self._note(waiting, window)
          waiting = None
        values: dict[str, float] = {}
        if log:
          values = window.means(self.data.cache.sources)
          window = Window()
          values['train/learning_rate'] = float(metrics['learning_rate'])
          now = time.monotonic()
          values['time/steps_per_second'] = (done - clock[1]) / (now - clock[0])
          clock = now, done
          progress.to(done, f'loss {values["train/loss"]:.4f}')
        if validate:
          values |= self._validate(done, held)
        if values and lead:
          self.curve.append(self.metrics.write(done, values))
        if save:
          if lead:
            self.metrics.flush()
          self.keeper.save(
            done,
            _saved(self.mapper.fetch_state(held)),
            {'window': dataclasses.asdict(window), 'init_hash': self.origin},
          )
          counted = None  # wishes of before the save
          if stop and done < config.train.steps:
            raise Preempted(self._asked(done))
    if lead:
      self.metrics.close()
    held = self.mapper.fetch_state(held)
    if config.train.use == 'best':
      best = self.keeper.restore_best(
        state.abstract(self.init_params, self.tx, self.shardings)
      )
      if best is not None:
        writer.say(f'keeps the parameters of step {best.step}, best on validation')
        return self._merged(best.state.params, held.frozen)
    return self._merged(held.params, held.frozen)

  def _merged(self, params: Any, frozen: Any) -> Any:
    """The whole model's parameters, low-rank updates merged."""
    if frozen is None:
      return params
    # A restored state lies on the mesh, one fetched from pmap on a single device.
    places = self.shardings.params, self.frozen_shardings
    return self.parts.merged(*jax.device_put((params, frozen), places))

  def _note(self, waiting: tuple[int, Any], window: Window) -> None:
    number, metrics = waiting[0], jax.device_get(waiting[1])
    if not metrics['finite']:
      step.check_finite(number, metrics, self.batches.describe(number))
    window.add(metrics)

  def _validates(self, done: int) -> bool:
    every = self.config.train.validate_every
    last = done == self.config.train.steps and self.config.train.use == 'best'
    return self.kind.has_validation and (last or bool(every and done % every == 0))

  def _validate(self, done: int, held: Any) -> dict[str, float]:
    current = self.mapper.fetch_state(held)
    params = self.gather(self._merged(current.params, current.frozen))
    with distributed.lead(self.config.parallel.wait_seconds) as first:
      found = self.kind.validation(params) if first else None
    values, best = distributed.share(found)
    if self.config.train.use == 'best' and best is not None:
      self.keeper.save_best(done, _saved(current), best)
    return values

  def _wishes(self) -> tuple[bool, bool]:
    """This process's: to stop, and to save because time has passed."""
    return self.stop.requested, self.keeper.late()

  def _asked(self, done: int) -> str:
    by = self.stop.name or 'a signal to another process'
    return (
      f'stopped by {by} after step {done}, the state is saved; run the same command to '
      'go on.'
    )

  def gather(self, params: Any) -> Any:
    """Parameters where they are measured: of several processes on the first one's
    devices, split over them."""
    here = meshes.make_mesh(1, jax.local_device_count(), devices=jax.local_devices())
    declared = weights.declare(self.kind.model, self.kind.head)
    return distributed.on_first(params, sharding.param_shardings(here, declared))

  def finish(self, params: Any, digest: str, started: float) -> None:
    """Evaluates the exported model, writes results and report."""
    config = self.config
    about = files.provenance(
      self.command.line,
      config.seed,
      steps=config.train.steps,
      model_hash=digest,
      data_hash=self.data.cache.key,
      init_hash=self.origin or None,
    )
    self.kind.conclude(
      self.command, self.work, params, self.data, self.curve, about, started
    )
