"""Every bound of the grader, each with its reason. It imports nothing, since the recorder reads it inside the sandbox."""

# --- what a plan may hold

PLAN_BYTES = 1 << 18  # of its text: a plan of the largest budget takes a tenth of it
PLAN_OPERATIONS = 150  # for each call, and as many beside: public samplers take 4 to 78 in all, a painter of pictures thousands
PLAN_FILTERS = 4  # for each call, and as many beside: a border can be told from the rest, and each filter carries it further in
PLAN_NUMBERS = 400  # different constants: schedules take up to 40, a 5x5 filter of all channels 225, a small picture 3,000
PLAN_CALLS = 64  # of networks: a sampler of more is not a few-step one
PLAN_BATCH = 256  # images of a plan whose steps are for each image of a batch: each of them has steps of its own
CONSTANT_VALUES = 256  # of one constant or list, for the same 5x5 filter
FILTER_PIXELS = 7  # each way, on an image of four times as many: what is larger holds a picture
MATRIX_CHANNELS = 16  # of a matrix product, for the same reason: colours of four pixels are 12
RESULT_GROWTH = 16  # numbers of one result for each number of an image: all states of a sampler of 16 calls, stacked
BATCH_COPIES = 8  # of the batch, put together for one call: guidance takes two or three
ARGUMENT_DEPTH = 4  # lists within lists: torch takes two at most
ARGUMENT_LETTERS = 200  # of one text: the longest names of networks have a few dozen
ARGUMENT_SIZE = 1 << 24  # of one dimension: an image of this length has no network
CONSTANT_DIMENSIONS = 8  # of its shape: images have 4, and pixels that are shuffled 6
