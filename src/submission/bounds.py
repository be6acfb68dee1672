"""Every bound of the grader, with a line why. What was graded under other bounds is graded anew (`digest`).

Sizes are in bytes, times in seconds. Modules read them as `bounds.NAME` when they need them.
"""

import hashlib
import json

# --- archives
ARCHIVE_FILES = 5000  # a submission of the whole kit has 150
ARCHIVE_BYTES = 2 << 30  # unpacked: the largest checkpoint, and room for results
ARCHIVE_RATIO = 200.0  # bytes unpacked for one packed; code packs to a quarter, a bomb to a thousandth
RATIO_FROM = 1 << 20  # smaller members may have any ratio: an empty log has
NAME_BYTES = 255  # of one file or folder, as file systems have it
PATH_BYTES = 1000  # of a whole path, within what every system takes
DIRECTORY_BYTES = 4 << 20  # a zip file's list of members; one takes 46 and its name
HASHED_BYTES = 8 << 30  # of a submission's folder; what has more fails anyway
FOLDER_BYTES = 200  # the name of a team's folder: of 255, since names of files are made from it

# --- reading
READ_SECONDS = 600.0  # for all of a submission; a checkpoint of 235 MB takes 5
READ_CPU_SECONDS = 180  # the same, of computing
READ_MEMORY = 4 << 30  # twice the largest checkpoint, and torch
READ_FILE_BYTES = 3 << 30  # of a file that is written: the tensors, at most a checkpoint and a half
CODE_BYTES = 64 << 20  # all Python files; the kit's take 2 MB
KIT_FILE_BYTES = 1 << 20  # a larger file is no file of the kit, and is not read to see
CONFIG_BYTES = 64 << 10  # model_config.json: options, and no place for images
CONFIG_DEPTH = 20  # of lists in lists; Python's own reader has an end, too

# --- checkpoints
CHECKPOINT_BYTES = 3 << 29  # six of the course's networks in float32
OTHER_BYTES = 256 << 20  # tensors that belong to no network: a perceptual loss
EXTRA_BYTES = 128 << 10  # those of them that the sampler sees: tables of a schedule, and no images
PICKLE_BYTES = 2 << 20  # the file's list of tensors; each takes some 150
NETWORKS = 8  # of one checkpoint; a method has at most four
CANDIDATES = 100  # tensors that are called as the network's own are looked at, as the start of a network

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

# --- the sandbox
MEMORY = 6 << 30  # data of the process: torch and a network of the course without its weights take 1
DISK = 64 << 20  # the scratch folder, in memory, and any one file
THREADS = 64  # libraries start some; a bomb has thousands
PROCESSES = 8  # bubblewrap has two, the worker is one, and libraries ask small programs what machine this is
KERNEL_PROCESSES = 1024  # where the kernel stops what grows faster than the grader looks
OPEN_FILES = 256  # a sampler opens none
POLL_SECONDS = 0.1  # between two looks at what the process takes
SETUP_SECONDS = 120.0  # CPU and waiting time until the model is built; to import torch takes 2 to 20
RECORD_SECONDS = 60.0  # the same for the plan of one NFE; public samplers take under 1
SAMPLE_SECONDS = 60.0  # waiting beside the network's own time, for each request to a sampler that runs by its own code
SAMPLE_SECONDS_PER_IMAGE = 0.1  # more of it for each image
RUN_SECONDS = 900.0  # waiting for all requests to one process, and its CPU time
KERNEL_CPU_SECONDS = 3600 * 24  # where the kernel ends a process that the grader has lost
ENDING_SECONDS = 5.0  # from the end of the pipe to that of the process
HEADER_BYTES = 1 << 16  # the head of a message: names, shapes and a text
PLANS = 4  # of a sampler that loops over its images: the grader's batches and the course's, and the last of each

# --- scores
PUBLIC_SHARE = 0.8  # of the best secret seed's FID: a public seed below it is tuned, seeds differ by some percent
SAME_LEVELS = 3.0  # two images whose pixels differ by less than this on average (of 255) are one: noise and JPEG differ by 2
MOVED_PIXELS = 2  # a copy may be moved by so many, in each direction
NEAREST = 4  # reference images that an image is compared with, by small copies of 8x8
ALIKE_LEVELS = 25.0  # how far such small copies may be from each other
DUPLICATE_SHARE = 0.05  # of images that are equal to another: few-step samplers make hardly any
NEAR_SHARE = 0.1  # of images that are a validation image: a network that learned the training images has none

# --- what is shown of a stranger's words and pictures
TEXT_LENGTH = 300  # a reason: one line
QUOTED_LENGTH = 60  # what stands between quotes
PRIVATE_LENGTH = 2000  # the words of a submission's own error, for its team: the error and the start of its traceback
NAME_LENGTH = 60  # of a team on the board
REASON_LENGTH = 240  # of a reason on the board
LINE_LENGTH = 160  # of a plan on the board
PLAN_LINES = 400  # of a plan on the board; result.json has all
SHEET_PIXELS = 640  # the longer side of a picture on the page
PICTURE_PIXELS = 50_000_000  # of a picture that is opened at all


def digest() -> str:
    """Equal for equal bounds: part of what a stored result is known by."""
    values = {name: value for name, value in globals().items() if name.isupper()}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=sorted).encode()).hexdigest()[:16]
