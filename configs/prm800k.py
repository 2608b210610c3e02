"""A PRM from scratch on the human step ratings of PRM800K."""

from configs import base

PHASE_1 = 'prm800k/phase1_{}.stepwise-critic.jsonl.gz:prm800k_steps'
SUBSET = 'prm800k/train_subset_trajectories.jsonl.gz:prm800k_trajectories'
PROCESS_BENCH = {'gsm8k': 189, 'math': 512, 'olympiadbench': 520, 'omnimath': 473}
TOKENIZER = 'runs/prm800k_tokenizer/tokenizer.json'


def get_config():
  c = base.get_config()
  c.data.train = f'{PHASE_1.format("train_plus")}, {SUBSET}'
  c.data.validation = ''
  c.data.validation_share = 0.1
  c.data.evaluate = ', '.join(
    [
      f'phase1_test={PHASE_1.format("test")}',
      *(
        f'processbench_{name}_{rows}=processbench/{name}.json:processbench'
        for name, rows in PROCESS_BENCH.items()
      ),
    ]
  )
  c.data.label = c.data.truth = 'human'
  c.data.weigh_once = True
  c.tokenizer = TOKENIZER
  c.format.question_template = '{question}\n'
  c.format.max_length = 2048
  c.model.n_layers = 2
  c.model.d_model = 64
  c.model.n_heads = 4
  c.model.head_dim = 16
  c.model.d_ff = 128
  c.model.window = 128
  c.model.query_block = 128
  c.model.windowed_layers = (True, False)
  c.objective.name = 'bce'
  c.optimizer.peak_lr = 2e-3
  c.train.batch_size = 32
  c.train.steps = 900
  c.train.validate_every = 300
  c.logging.every_steps = 20
  return c
