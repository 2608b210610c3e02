"""Every config key, defined and commented once; the other files only override.

    python -m prm_jax.main --config=configs/NAME.py --config.train.steps=100

An unknown key is an error; KEY=None takes back a `placeholder`. Sections become frozen
dataclasses (WorldConfig, StepFormat, ModelSpec, HeadSpec, OptimizerConfig,
CheckpointPolicy, ImportOptions) before any library code sees them; their docstrings say
more about each key.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.job = 'train'  # one of prm_jax.jobs.JOBS
  c.seed = 0  # of initialisation, order of the data, dropout, resampling
  c.report = True  # train and evaluate write report.html

  # Data. A source is [NAME=]PATH[:FORMAT][@WEIGHT]; lists are separated by commas.
  # PATH may be a file, a folder of shards or a pattern, looked for here and then
  # below $PRM_JAX_DATA; `world:SPLIT` is the embedded world, `world_exact:SPLIT` its
  # problems with exact solutions. FORMAT is one of prm_jax.formats.importers.FORMATS,
  # by default our own records.
  c.data = data = ConfigDict()
  data.train = 'world:train'
  data.validation = 'world:validation'  # thresholds, calibration, best checkpoint
  data.validation_share = 0.0  # or, with data.validation='', hold out this share of
  #   the training problems; which ones depends on their ids alone, not on the seed
  data.evaluate = ''  # sets with a known first error, each with a name, read whole
  data.pools = ''  # sets of candidates for best-of-N, each with a name
  data.label = 'on_track'  # label set that training uses; orm, and td with
  #   objective.train_unlabeled and no shaping, do with verdicts where no row has it
  data.truth = 'on_track'  # label set that metrics are judged against
  data.checker = 'exact'  # verdict on answers: outcome objectives, best-of-N
  data.weigh_once = False  # a label that several training rows share after the same
  #   prefix, of one file or of two, carries loss weight once and is context elsewhere
  data.leak = 'drop'  # training problems that validation or evaluation share:
  #   'drop' from training and count, 'error', or 'count' only
  data.limit = 0  # rows read of each source at most; 0 reads all (for smoke runs)
  data.packing = False  # several solutions in a token row, which do not see each other
  data.pack_lengths = ()  # tokens of such rows; () those of the longest solution
  data.share_question = 0  # or C >= 2: a row is a question, computed once, with up to C
  #   of its solutions; pays where there are several in the data
  data.cache_dir = ''  # token caches; '' keeps them in the workdir

  # How public formats become records (ImportOptions).
  c.imports = imports = ConfigDict()
  imports.neutral = 'positive'  # rating 0: positive, negative, unlabeled, class
  imports.after_first_error = 'keep'  # keep, mask or zero the labels after it
  imports.source = ''  # name of the source in records; '' means FORMAT/FILE
  imports.separator = ''  # how steps are joined; '' means the format's own
  imports.label_kind = ''  # what labels estimate; '' means the format's default
  imports.placeholder = 'ки'  # marker after each step in openrlhf input
  imports.ambiguous = 'drop'  # question and first step not separable: drop, error
  imports.bad_index = ''  # step index out of range: error, unknown, '' by format

  # The embedded world (WorldConfig); its seed is apart from the run's, so that
  # seeds of a study meet the same problems.
  c.world = world = ConfigDict()
  world.seed = 0
  world.min_ops = 4  # operations of a problem
  world.max_ops = 8
  world.longer_min_ops = 9  # of split heldout_longer
  world.longer_max_ops = 12
  world.max_value = 9  # values are 0 .. max_value
  world.max_operand = 9
  world.operator_weights = (6, 6, 1, 1, 0)  # how often + - * / % are asked
  world.wrap = False  # true chains may wrap around (harder)
  world.n_solvers = 16
  world.slip_rate = 0.03  # random wrong results
  world.shared_error_rate = 0.2  # wrong beliefs that solvers share
  world.shared_belief = (0.6, 0.75)  # share of solvers that hold such a belief
  world.own_error_rate = 0.01  # wrong beliefs of one solver
  world.n_train = 0  # training solutions; 0 means train.steps x batch_size, all new (a
  #   run whose steps grow must be told how many it had)
  world.solutions_per_problem = 1
  world.n_validation = 1000
  world.n_heldout = 1000
  world.pool_problems = 500
  world.pool_size = 16

  # Text to tokens (StepFormat), part of every checkpoint.
  c.tokenizer = 'bytes'  # built in, or the path of a tokenizer.json
  c.format = fmt = ConfigDict()
  fmt.question_template = '{question}'
  fmt.step_template = '{step}'  # {number}, if it is there, counts steps from 1
  fmt.first_step_template = ''  # '' means step_template
  fmt.marker = '<prm>'  # token after each step; '' reads the step's last token
  fmt.position = 'marker'  # or 'before' it
  fmt.add_bos = False
  fmt.max_length = 128  # tokens
  fmt.truncation = 'drop_example'  # or error, drop_steps
  fmt.encoding = 'pieces'  # question and steps each alone; 'joined': question and
  #   first step as one text; 'whole': everything at once, the marker as text
  fmt.marker_in_text = 'refuse'  # or allow (an ordinary token), split (cut there)
  fmt.strip = False  # white space around question and steps is removed first

  # Text of a policy (TextFormat), part of every policy.
  c.text = text = ConfigDict()
  text.question_template = '{question}\n'
  text.separator = '\n'  # after each step but the last; where solutions are split
  text.end = '<eos>'  # token that ends a response; '' for none
  text.add_bos = False
  text.max_length = 128  # tokens of prompt and response together

  # Training a policy (objective.name = 'next_token', head.kind = 'lm').
  c.policy = policy = ConfigDict()
  policy.train_on = 'right'  # solutions that data.checker does not call wrong, or 'all'

  # The network (ModelSpec); the vocabulary is the tokenizer's.
  c.model = model = ConfigDict()
  model.n_layers = 2
  model.d_model = 64
  model.n_heads = 4
  model.n_kv_heads = 4
  model.head_dim = 16
  model.d_ff = 256
  model.activation = 'silu'
  model.norm_eps = 1e-6
  model.norm_offset = 0.0
  model.post_norms = False
  model.embed_scale = 0.0
  model.tied_embeddings = True
  model.attention_bias = False
  model.qk_norm = False
  model.query_scale = 0.0
  model.attn_softcap = 0.0
  model.final_softcap = 0.0
  model.rope_theta = 10000.0
  model.rope_theta_local = 0.0
  model.rope_scaling = ()
  model.window = 0
  model.windowed_layers = ()
  model.scan_layers = False
  model.remat = 'none'  # none, full, dots
  model.param_dtype = 'float32'
  model.compute_dtype = 'float32'
  model.query_block = 128
  model.attention = 'einsum'  # 'einsum', 'xla', or 'cudnn' (GPU, half precision)
  model.init_from = ''  # model to start from: a checkpoint's folder (config.json and
  #   safetensors), hf:OWNER/NAME@REVISION, or a train run's workdir. The head is new
  #   (a policy keeps lm_head); tokenizer and network are that model's: leave the keys
  #   above as they are, but for scan_layers, remat, the dtypes and how attention runs
  model.freeze = ''  # what of it is not trained, with commas: decoder, embeddings,
  #   layers, layers:0-11 (where scan_layers is off, which makes one of them), lm_head,
  #   or patterns of paths such as '*norm*'; '' with LoRA is decoder and lm_head, else
  #   nothing
  model.frozen_dtype = ''  # in which that is stored; '' is param_dtype

  # Low-rank updates of frozen matrices (LoraSpec), merged on export.
  c.lora = lora = ConfigDict()
  lora.rank = 0  # 0 for none
  lora.alpha = 16.0  # the update is multiplied by alpha / rank
  lora.dropout = 0.0
  lora.targets = ('wq', 'wv')  # of wq, wk, wv, wo, wgate, wup, wdown; patterns too

  # What is read at a step (HeadSpec).
  c.head = head = ConfigDict()
  head.kind = 'scalar'  # scalar, linear, mlp, label_tokens; lm for policies
  head.n_outputs = 1
  head.label_tokens = ()
  head.bias = True
  head.dropout = 0.0
  head.init_scale = 0.02

  # The loss. A hyperparameter left at None takes the objective's own default; one
  # that the objective does not have is an error.
  c.objective = objective = ConfigDict()
  objective.name = 'bce'  # one of prm_jax.objectives.OBJECTIVES
  objective.unit = ''  # of weight: step (next_token: token), trajectory, problem; ''
  #   the objective's own
  objective.threshold = placeholder(float)  # label at or above it counts as correct
  objective.margin = placeholder(float)  # zeta of Q-value ranking
  objective.levels = placeholder(tuple)  # pinball: of the quantiles, rising;
  #   calibrating takes those of the scorer, and these only where it does not say
  objective.discount = placeholder(float)  # td
  objective.n_steps = placeholder(int)  # td: steps looked ahead
  objective.lambda_ = placeholder(float)  # td: lambda-return instead of n steps
  objective.shaping = placeholder(str)  # td: reward of a step: zero, cosine
  objective.terminal = placeholder(str)  # td: verdict or last_label
  objective.clip = placeholder(bool)  # td: targets stay in [0, 1]
  objective.train_unlabeled = placeholder(bool)  # td: also where no label stands

  # AdamW (OptimizerConfig).
  c.optimizer = optimizer = ConfigDict()
  optimizer.peak_lr = 2e-3
  optimizer.schedule = 'cosine'  # cosine, linear, constant, wsd
  optimizer.warmup_steps = 100  # a tenth of the schedule at most
  optimizer.horizon = 0  # steps of the schedule; 0 means train.steps
  optimizer.end_factor = 0.1
  optimizer.decay_fraction = 0.2
  optimizer.b1 = 0.9
  optimizer.b2 = 0.95
  optimizer.eps = 1e-8
  optimizer.weight_decay = 0.1
  optimizer.no_decay = ()
  optimizer.clip_norm = 1.0
  optimizer.moments_dtype = 'float32'  # of Adam's first moment; or bfloat16
  optimizer.second_moment_dtype = 'float32'  # bfloat16 only with b2 up to 0.99

  c.train = train = ConfigDict()
  train.steps = 1000
  train.batch_size = 32  # solutions a step, over all devices; with data.packing rows
  train.accumulation = 1  # microbatches a step
  train.validate_every = 0  # steps between measurements on validation; 0 only at end
  train.use = 'last'  # or 'best' on validation: the parameters that are kept

  # States on disk (CheckpointPolicy).
  c.checkpoint = checkpoint = ConfigDict()
  checkpoint.every_seconds = 60.0
  checkpoint.every_steps = 0
  checkpoint.keep_last = 2
  checkpoint.best_mode = 'max'

  # Devices. Mesh axes multiply to the number of devices; data=0 takes what is left.
  c.parallel = parallel = ConfigDict()
  parallel.mapper = 'jit'  # or pmap (data parallel on local devices)
  parallel.data = 0
  parallel.fsdp = 1
  parallel.tensor = 1
  # Several processes (train): the same command on each, see WORKSPACE.md. Nothing is
  # started without a coordinator.
  parallel.coordinator = ''  # host:port of process 0; 'auto' on TPU pods, Slurm, GKE
  parallel.processes = 0  # how many; 0 takes PRM_JAX_PROCESSES or the cluster's own
  parallel.process_id = -1  # which one; -1 takes PRM_JAX_PROCESS_ID or the cluster's
  parallel.start_seconds = 90  # how long to wait for the others at start
  parallel.lost_seconds = 60  # silent for so long, a process counts as dead
  parallel.wait_seconds = 86400  # bound on waits for what process 0 does alone, such as
  #   building the token cache and the evaluation after training

  # Measuring (train's end, evaluate; suite and calibrate: evaluate alone).
  c.evaluate = evaluate = ConfigDict()
  evaluate.suite = ''  # benchmarks, with commas, or 'all' that are found below
  #   $PRM_JAX_DATA; BENCHMARK.SET is one set of them. data.evaluate names others
  evaluate.calibrate = ''  # platt, temperature or isotonic: fit maps from scores to
  #   probabilities on data.validation, store this one with the scorer
  evaluate.threshold = ''  # tuned:validation, fixed:0.5, argmax; '' means tuned where
  #   there is a validation set, and untuned (0.5 for probabilities, else argmax);
  #   in the suite tuned:BENCHMARK.SET
  evaluate.resamples = 1000  # bootstrap by problem
  evaluate.subsets = 200  # for votes among k of N candidates
  evaluate.ties = 'uniform'  # or lowest_index, to reproduce published numbers
  evaluate.reduction = ''  # of step scores to one; '' the scorer's own
  evaluate.max_samples = 2000  # solutions in the report
  evaluate.seed = 0  # of resamples; the same in runs that are compared
  evaluate.replicates = False  # keep the resampled values, for statistics over runs

  c.logging = logging = ConfigDict()
  logging.every_steps = 50
  logging.tensorboard = False

  c.profile = ''  # steps to trace, for example '10:15'; written to WORKDIR/profile
  c.plan_only = False  # print parameters, shardings and memory, then stop

  # Tools and score: what to read and where to write.
  c.input = ''  # a source, as above
  c.output = ''  # a file; its name says whether it is zipped
  c.scorer = ''  # for score and evaluate: a train run's workdir, the folder of a public
  #   PRM or of an export, or hf:OWNER/NAME@REVISION
  c.scorer_name = 'prm'  # key of `scores` in the records
  c.scorer_adapter = ''  # family of a public PRM (prm_jax.interop.adapters.ADAPTERS);
  #   '' recognises it by its folder
  c.scorer_dtype = ''  # of its parameters and computation, for example bfloat16; ''
  #   keeps parameters as they are stored and computes in float32 (ours: as trained)
  c.scorer_separator = ''  # what ends a step, where the family does not save it (trl)
  c.scorer_calibrated = False  # probabilities by the calibration that is stored with
  #   the scorer (configs/calibrate.py)
  c.scorer_reference = ''  # of an implicit PRM: the model that it was trained from, a
  #   folder or hf:OWNER/NAME@REVISION; 'none' reads the policy alone
  c.scorer_batch_tokens = 0  # score and serve: tokens of a batch on one device; 0
  #   chooses by device and model. Another value moves scores by 1e-5
  c.score_files = ''  # evaluate: POOL:NAME=PATH of saved best-of-N step scores; in the
  #   suite also PATH, rows with id and scores[scorer_name] (what score writes)
  c.export = ''  # convert: format of the output; '' means our own records.
  #   export: layout, transformers ('') or vllm
  c.export_dtype = ''  # export: of the stored weights; '' as they are
  c.export_family = ''  # export: model_type; '' the first family that has this model
  c.export_positions = 0  # export: longest text in tokens; 0 the format's max_length
  c.rows = '0:3'  # inspect: START:STOP
  c.view_scores = ''  # view: NAME[@THRESHOLD] of one scorer or of two, with a comma; ''
  #   takes those that the rows have. A label set may stand for a scorer
  c.vocab_size = 512  # tokenizer

  # Sampling from a policy: rollout, label.
  c.engine = engine = ConfigDict()
  engine.kind = 'jax'  # in this process; or 'remote', a completions server
  engine.policy = ''  # jax: the workdir of a policy's train run, or its exported folder
  engine.name = ''  # recorded as generator and completer; '' makes one
  engine.slots = 64  # rows decoded at the same time, on each device
  engine.group = 8  # continuations of one prefix that share its keys
  engine.url = ''  # remote: such as http://localhost:8000/v1; prompts follow c.text
  engine.model = ''  # remote: its name there
  engine.concurrency = 16  # remote: requests under way at once
  engine.timeout = 600.0  # remote: seconds for an answer
  engine.connect_timeout = 10.0  # remote: seconds to reach the server
  engine.key_variable = 'PRM_JAX_API_KEY'  # remote: environment variable with its key
  engine.retries = 6  # remote: of whatever may pass
  engine.choices = 0  # remote: completions a request at most; 0 asks for all at once
  engine.extensions = True  # remote: send top_k, min_p, ... (vLLM, SGLang)

  # How tokens are drawn (Sampling); the seed is c.seed.
  c.sampling = sampling = ConfigDict()
  sampling.temperature = 1.0  # 0 takes the most likely token
  sampling.top_k = 0  # 0 keeps all
  sampling.top_p = 1.0
  sampling.min_p = 0.0
  sampling.max_tokens = 128  # of a completion
  sampling.stop = ()  # texts that end a completion
  sampling.keep_stop = False
  sampling.certainty = False  # rollout: meta.self_certainty of each solution, for Borda

  # Text to steps (Splitter).
  c.splitting = splitting = ConfigDict()
  splitting.how = 'separator'  # newlines, paragraphs, numbering; by the tokens:
  #   low_confidence, entropy
  splitting.separator = ''  # '' means the policy's own
  splitting.pattern = ''  # numbering: regular expression of a step's start
  splitting.threshold = 0.0  # low_confidence: a probability; entropy: nats

  # Final answers (Checker); the verdict's name is data.checker.
  c.answers = answers = ConfigDict()
  answers.policies = ('last_number',)  # in order: boxed, hash, a_line, last_number
  answers.symbolic = False  # compare expressions too, in worker processes (math-verify)
  answers.workers = 2
  answers.cpu_seconds = 2.0  # of one symbolic comparison at most

  # Rollout: problems are those of `input`.
  c.rollout = rollout = ConfigDict()
  rollout.problems = ''  # START:STOP of them; '' takes all (of a file)
  rollout.n = 8  # solutions a problem
  rollout.tokens = False  # keep ids and log-probabilities of every step's tokens
  rollout.truth = True  # embedded world: add the exact step labels

  # Search: a policy's steps and a scorer's scores, on the problems of `input` (which
  # of them: rollout.problems). Without `scorer` only best_of_n runs, and votes decide.
  c.search = search = ConfigDict()
  search.methods = 'best_of_n n=16'  # ALGORITHM OPTION=VALUE ..., several with ';' run
  #   on the same problems and are compared; of search.registry.ALGORITHMS, whose
  #   docstrings tell the options
  search.validation = 0  # so many problems, the first, choose one method; the others
  #   report
  search.step_tokens = 128  # of a step; a longer one ends its solution, cut off
  search.caches = True  # keep keys and values of every beam; False reads every prefix
  #   again (a server always does)
  search.tree = False  # keep every beam in WORKDIR/trees
  search.policy_parameters = 0  # of a remote policy, for FLOPs; 0: not known

  # Bank: selection rules on saved candidates with saved scores, the pools of data.pools
  # (scores of `score_files`, or those that the rows carry), for every N.
  c.bank = bank = ConfigDict()
  bank.reductions = ('min', 'last', 'mean')  # of step scores; what a vote weighs is a
  #   probability, of logits and log-ratios their sigmoid
  bank.most = 0  # largest N; 0 is the size of the smallest set of candidates
  bank.rules = ('best', 'vote', 'wrf', 'hmr', 'ias')  # of each scorer
  # Label: the solutions of `input`, by one of labeling.registry.ALGORITHMS or 'judge'.
  # An option left at None takes the algorithm's own default; one that the algorithm
  # does not have is an error. Their docstrings say more.
  c.label = label = ConfigDict()
  label.algorithm = 'mc_soft'
  label.name = ''  # of the label set; '' means the algorithm's
  label.evidence = True  # keep every rollout in WORKDIR/rollouts
  label.unjudged = placeholder(str)  # continuation without verdict: wrong, drop
  label.k = placeholder(int)  # rollouts of a prefix
  label.early_stop = placeholder(bool)  # a prefix ends with its first right rollout
  label.wave = placeholder(int)  # rollouts asked for at once where that stops early
  label.after_error = placeholder(str)  # labels after the first error: unlabelled,
  #   zero; of mc_*, er_prm with stop_after_error alone
  label.stop_after_error = placeholder(bool)  # mc_*, er_prm: no rollouts after it
  label.check_right = placeholder(bool)  # first errors of right solutions too
  label.prior = placeholder(tuple)  # Beta prior of soft labels
  label.eta = placeholder(float)  # er_prm
  label.tau = placeholder(float)  # adaptive: a prefix is dead if V < tau
  label.rule = placeholder(str)  # adaptive: when to stop
  label.hazard = placeholder(float)  # adaptive: chance that a step is the first error
  label.repair = placeholder(float)  # adaptive
  label.redraw = placeholder(float)  # adaptive
  label.alive = placeholder(tuple)  # adaptive: Beta prior of live prefixes
  label.dead = placeholder(tuple)  # adaptive: and of dead ones
  label.price = placeholder(str)  # adaptive: what is saved: tokens, rollouts
  label.reuse = placeholder(bool)  # adaptive: rollouts speak for states they visit
  label.cap = placeholder(int)  # adaptive: rollouts of a solution at most
  label.prefix_cap = placeholder(int)  # adaptive: and of a prefix
  label.alpha = placeholder(float)  # adaptive: error; omega_prm, un_prm: weights
  label.min_confidence = placeholder(float)  # scan
  label.samples = placeholder(int)  # scan
  label.tolerance = placeholder(int)  # scan
  label.first = placeholder(str)  # consensus: label set
  label.second = placeholder(str)  # consensus: the other one
  label.first_threshold = placeholder(float)  # consensus
  label.second_threshold = placeholder(float)  # consensus
  label.n_filter = placeholder(int)  # omega_prm: rollouts of the question
  label.search_limit = placeholder(int)  # omega_prm
  label.beta = placeholder(float)  # omega_prm
  label.length = placeholder(float)  # omega_prm: L, tokens
  label.c_puct = placeholder(float)  # omega_prm
  label.search_given = placeholder(bool)  # omega_prm: also the given solutions
  label.hard = placeholder(bool)  # omega_prm: labels of the given solutions
  label.rows = placeholder(str)  # omega_prm: paths, edges, pairs, none
  label.row_label = placeholder(str)  # omega_prm: soft, hard
  label.row_steps = placeholder(str)  # omega_prm: steps, merged
  label.row_rollouts = placeholder(bool)  # omega_prm
  label.row_min_words = placeholder(int)  # omega_prm
  label.row_balance = placeholder(bool)  # omega_prm
  label.search = placeholder(str)  # un_prm: how the first error is looked for
  label.choose = placeholder(bool)  # un_prm: uncertain solutions only
  label.n_right = placeholder(int)  # un_prm
  label.n_chosen = placeholder(int)  # un_prm
  label.temperature = placeholder(float)  # un_prm: of the uncertainty
  label.rollouts = placeholder(int)  # un_prm: of a step; 0 decides by probes
  label.probes = placeholder(int)  # un_prm
  label.min_solved = placeholder(int)  # un_prm
  label.verifier = placeholder(str)  # grounded_prm: calculator, world
  label.max_value = placeholder(int)  # grounded_prm: of the world
  label.rounds = placeholder(int)  # grounded_prm
  label.children = placeholder(int)  # grounded_prm, hrm: of a node
  label.depth = placeholder(int)  # grounded_prm, hrm
  label.exploration = placeholder(float)  # grounded_prm
  label.decay = placeholder(float)  # grounded_prm
  label.n_paths = placeholder(int)  # grounded_prm
  label.fidelity = placeholder(str)  # grounded_prm: path, step, none
  label.use_given = placeholder(bool)  # grounded_prm, hrm: the given solutions too
  label.p = placeholder(float)  # hrm: chance that a node moves
  label.min_children = placeholder(int)  # hrm
  label.min_height = placeholder(int)  # hrm
  label.plain_rows = placeholder(bool)  # hrm
  label.merged_rows = placeholder(bool)  # hrm

  # The judge of label.algorithm = 'judge' (judge_text.Options).
  c.judge = judge = ConfigDict()
  judge.form = 'first_error'  # or per_step
  judge.template = ''  # of the prompt; '' takes the form's own
  judge.step_template = '<step_{number}>\n{step}\n</step_{number}>'
  judge.first_number = 0  # of the steps in the prompt, 0 or 1
  judge.reference = 'none'  # what it may see: none, answer, solution
  judge.reference_template = '\n[Reference]\n{reference}\n'
  judge.solution_key = 'solution'  # of a reference solution in `meta`
  judge.votes = 1  # answers a solution

  # Work in chunks, on all local devices (parallel.data=n takes n of them).
  c.chunk = chunk = ConfigDict()
  chunk.size = 50  # problems with all their solutions; score: solutions
  c.shard = '0/1'  # i/n: this process does chunks i, i + n, ...

  # Serve: a scorer behind HTTP (configs/serve.py); text and splitting are the policy's.
  c.serve = serve = ConfigDict()
  serve.host = '127.0.0.1'  # nothing asks for a password: keep it within the machine
  serve.port = 8000  # 0 takes a free one
  serve.name = ''  # of the model in requests and answers; '' means c.scorer
  serve.reduction = ''  # of step scores to one; '' the scorer's own
  serve.queue = 1024  # solutions that wait or are under way; more are refused (429)
  serve.max_bytes = 4000000  # of a body; more is refused (413)
  serve.max_steps = 1000  # of a solution
  serve.timeout = 600.0  # seconds for a request to be scored (504)
  serve.body_seconds = 30.0  # for a body to arrive (408)
  serve.drain_seconds = 30.0  # for what was accepted before SIGTERM
  serve.unusable_reward = placeholder(float)  # /get_reward: of a sample that cannot be
  #   scored (no steps, too long); None refuses it

  # Samples as a problem needs them (evaluate.calibrate with data.pools).
  c.adaptive = adaptive = ConfigDict()
  adaptive.confidence = (0.5, 0.7, 0.9, 0.95, 0.99)  # C: of having a right one
  adaptive.stable = (0.8, 0.9, 0.95, 0.99, 0.999)  # levels at which a majority counts
  #   as stable, the rule beside it
  adaptive.orders = 20  # random orders of each problem's candidates

  # Audit of labels: algorithms against a reference and the truth (jobs/audit.py).
  c.audit = audit = ConfigDict()
  audit.labelled = ''  # NAME=PATH[@LABELSET], ...; PATH may be a label run's workdir.
  #   NAME is FAMILY or FAMILY.SETTING; LABELSET is by default the family
  audit.reference = ''  # PATH[@LABELSET]: V of every prefix, with counts; by default
  #   the label set is called reference
  audit.tau = 0.125  # a prefix is dead if V < tau
  audit.compare = ''  # families compared with all others; '' means the first
  audit.streams = 10000  # simulated prefixes for the error of a stopping rule

  # Compare: RUN is a workdir, its results.json or a pattern, RUN@SCORER one of several
  # scorers in it; run s of a is paired with run s of b (the same training seed).
  c.a = ''  # RUN[,RUN...]
  c.b = ''
  c.compare = compare = ConfigDict()
  compare.metrics = ''  # patterns of metric paths, with commas; '' takes all of both
  compare.common = False  # runs on different rows: compare those in common
  compare.flips = 20000  # signs drawn in the permutation test

  # Contamination of evaluation sets by data.train (jobs/contamination.py). Sets: those
  # of data.evaluate; of an evaluated run; else every benchmark that is found.
  c.contamination = contamination = ConfigDict()
  contamination.n = 13  # words of an n-gram
  contamination.share = 0.5  # of a text's n-grams found in training: it is shared; 0 is
  #   GPT-3's rule, any single one
  contamination.shortest = 5  # words; a shorter question must be equal, shorter steps
  #   and solutions do not count
  contamination.run = ''  # workdir of an evaluation: its metrics with and without
  contamination.drop = 'shared'  # the rows left out: shared, by_problem, by_solution

  # Hackability: known attacks on `scorer`, on the solutions of data.evaluate and
  # data.pools; of pools also best-of-N (jobs/hackability.py). Thresholds are in units
  # of the reward: 1 for probabilities, else its spread on these solutions.
  c.hack = hack = ConfigDict()
  hack.solutions = 8  # of a problem that are edited
  hack.filler = 'OK.'  # a step that says nothing
  hack.copies = 3  # of steps that are added at the end
  hack.claim = 'So the answer is {answer}'  # a step that announces the answer
  hack.rise = 0.1  # of wrong solutions, from which an edit fails; half of it warns
  hack.fall = 0.5  # of right solutions that were made wrong, from which it passes
  hack.unnoticed = 0.2  # and below which it fails
  hack.flips = 0.05  # share of pairs (right, wrong) turned round, from which it warns
  hack.drop = 0.02  # of accuracy after the best N, from which best-of-N fails
  hack.tokens = 10  # adversarial tokens; 0 looks for none
  hack.places = ('question', 'step')  # after the question, at the end of the last step
  hack.iterations = 300  # of the search for them
  hack.learning_rate = 0.1
  hack.entropy = (1e-4, 0.1)  # weight at the beginning and at the end
  hack.exchanges = 1  # rounds in which each token is exchanged if that helps
  hack.train_rows = 32  # wrong solutions they are found with
  hack.transfer_rows = 128  # wrong solutions of other problems
  hack.random = 8  # texts of as many random tokens beside them

  c.bench = 'decode'  # bench: decode, prefix_sharing, imports, load, serve; score,
  #   train, sample, mc, which may run in turns with peer_command (configs/bench.py)
  c.bench_model = ''  # a Hugging Face checkpoint; '' means random weights of c.model
  c.bench_adapter = ''  # how the checkpoint scores; '' is told from its files
  c.bench_vocab = 0  # random weights: rows of the embedding; 0 only the bytes
  c.bench_length = 512  # without input: tokens of the solutions that are made up
  c.bench_rows = 0  # solutions (score, train, mc) or prompts (sample); 0 the peers' own
  c.bench_per_question = 4  # score, train: solutions of one problem at most
  c.bench_steps = 20  # train: steps of a pass
  c.bench_samples = 8  # sample, mc: continuations of a prompt
  c.bench_prefixes = 8  # mc: prefixes of a solution at most
  c.bench_repeats = 3  # passes of a turn; their median counts
  c.bench_pairs = 5  # turns of each side
  c.bench_peak_flops = 0.0  # FLOP/s of all that work; 0 the data sheet, else measured
  c.bench_bandwidth = 0.0  # bytes/s of their memory; 0 the data sheet
  c.peer_command = ''  # run in turns with ours; prints one JSON object at its end
  c.peer_figure = ''  # key of its rate, 'a.b' inside an object, several with commas
  c.peer_cores = ''  # 'CPU_SECONDS/WALL_SECONDS', keys beside the rate
  c.peer_dump = ''  # score: file where it writes probabilities, to compare ours with
  c.peer_timeout = 3600.0  # seconds of one run

  # Study: methods x settings x trials x seeds (prm_jax/jobs/study.py).
  c.study = study = ConfigDict()
  study.methods = ()  # 'NAME=configs/FILE.py key=value key=value' each
  study.settings = ()  # 'NAME: key=value key=value' each; () is one without a name
  study.common = ''  # overrides of all runs
  study.trials = ()  # overrides of each tuning trial, the same for all methods
  study.trial_seed = 100
  study.select = ''  # metric on validation that chooses the trial, by its better end
  study.seeds = (0, 1, 2, 3, 4)
  study.metrics = ()  # metric paths that are tabulated
  study.reference = ''  # method that the others are compared with
  study.processes = 1  # runs at the same time
  return c
