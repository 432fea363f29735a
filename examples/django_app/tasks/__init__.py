"""A task list: one model, one page, a JSON view and two requests of known cost."""

import time

STARTED = time.time()
