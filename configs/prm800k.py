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
  c.format.step_template = '{number}. {step}'
  c.format.max_length = 2048
  # Rows are long and most of their tokens are context: the first layer composes
  # words within a short window, the last looks at everything before a step.
  c.model.window = 32
  c.model.windowed_layers = (True, False)
  c.model.query_block = 64
  c.model.d_ff = 128
  c.head.dropout = 0.1
  c.objective.name = 'bce'
  c.train.batch_size = 16
  c.train.steps = 3600  # about two epochs
  c.train.validate_every = 900
  c.logging.every_steps = 50
  return c
