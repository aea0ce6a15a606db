#!/usr/bin/env python3
"""Trains the demo model from scratch on pictures drawn as it goes; can be stopped and resumed.

    train.py --work DIR --batches 11000 --threads 2

Every batch is made from its number alone, and the learning rates too, so a resumed run sees what an
unbroken one would. Several questions about one picture make one sequence; the loss looks at the
answers and at the end token that must follow each. A second, training-only head on the tower learns
what stands in each patch: it teaches the tower to see long before the answers could.
"""

import argparse
import io
import json
import os
import pathlib
import random
import signal
import time
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import draw
from model import CogVlm, initialize
from muon import Muon
from tokenizer import BOS, EOS, Encoder

HERE = pathlib.Path(__file__).parent
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
IGNORE = -100


@dataclass(frozen=True)
class Part:
    """Pictures of one kind in a batch, the conversations about each, and the tokens of each of those."""
    kind: str
    pictures: int
    talks: int = 0
    room: int = 0


@dataclass(frozen=True)
class Stage:
    """A stretch of the run. The learning rates rise over its first `rise` batches, and fall in a
    straight line from the peaks at its start to the share `least` of them at its end."""
    batches: int  # the last stage goes on until the run is over, whatever it says here
    parts: tuple  # of a batch; those without conversations stand last
    muon_rate: float  # peak learning rate of the matrices between rows
    rise: int
    least: float


STAGES = (
    # See: the tower alone, from crowded pictures without questions; far faster than by answers.
    Stage(700, (Part("crowded scenes", 8), Part("crowded numbers", 40)), muon_rate=0.05, rise=50, least=0.05),
    # Answer: all together. Numbers need few turns: once one has been said, the
    # rest is only copied. A scene has more to ask than one conversation holds.
    Stage(10**9, (Part("scenes", 5, 3, 92), Part("numbers", 4, 1, 34), Part("crowded numbers", 2)),
          muon_rate=0.005, rise=100, least=0.0),
)
ADAM_RATE = 1.1e-3  # peak learning rate of all but the matrices between rows
RAMP = 800  # batches of questions until scenes and numbers have their full size


def stage_of(index):
    """The stage that batch `index` belongs to, and that stage's first batch."""
    start = 0
    for stage in STAGES[:-1]:
        if index < start + stage.batches:
            return stage, start
        start += stage.batches
    return STAGES[-1], start


def sequence(encoder, turns, room):
    """Token ids of a conversation after BOS, and their labels; as many turns as `room` holds.

    The label of a token is what must follow it: at an answer's last token that is the end token,
    though the next token of the sequence is the line break before the next question.
    """
    ids, labels = [], []
    for turn in turns:
        question = encoder.encode(f"Question: {turn.question} Answer:")
        answer = encoder.encode(f" {turn.answer}")
        if len(ids) + len(question) + len(answer) > room:
            break
        ids += question + answer + encoder.encode("\n")
        labels += [IGNORE] * (len(question) - 1) + answer + [EOS[0], IGNORE]
    return ids[:room], labels[:room]


def patch_classes(boxes, side):
    """What stands at the centre of each patch: [side * side] classes of `draw.POINT_CLASSES`."""
    classes = np.zeros((side, side), np.int64)
    centres = (np.arange(side) + 0.5) / side
    for kind, left, top, right, bottom in boxes:
        rows = (centres > top) & (centres < bottom)
        columns = (centres > left) & (centres < right)
        classes[np.ix_(rows, columns)] = kind
    return classes.reshape(-1)


def shrink(rng, picture, size):
    """The picture as the server will see it; some go through JPEG on the way."""
    if rng.random() < 0.2:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=rng.randint(70, 95))
        picture = Image.open(buffer)
    return np.asarray(picture.convert("RGB").resize((size, size), Image.BICUBIC))


class Group:
    """Pictures with equally long sequences about them, `talks` for each picture.

    images [pictures, size, size, 3] bytes; ids [pictures * talks, 1 + room] with BOS; labels [same,
    room]; classes [pictures, patches].
    """

    def __init__(self, encoder, samples, images, talks, room, side):
        """`talks` holds a list of conversations for each picture."""
        conversations = [turns for several in talks for turns in several]
        text = np.full((len(conversations), room), encoder.encode("\n")[0], np.int64)
        labels = np.full((len(conversations), room), IGNORE, np.int64)
        for row, turns in enumerate(conversations):
            ids, wanted = sequence(encoder, turns, room)
            text[row, :len(ids)] = ids
            labels[row, :len(wanted)] = wanted
        self.images = torch.from_numpy(np.stack(images))
        self.talks = len(conversations) // len(samples)
        self.ids = torch.from_numpy(np.pad(text, ((0, 0), (1, 0)), constant_values=BOS))
        self.labels = torch.from_numpy(labels)
        self.classes = torch.from_numpy(np.stack([patch_classes(s.boxes, side) for s in samples]))


class Batches(Dataset):
    """Batch `index` of the run with this seed: a list of Groups."""

    def __init__(self, config, seed, count):
        self.count = count
        self.size = config["vision_config"]["image_size"]
        self.side = self.size // config["vision_config"]["patch_size"]
        self.seed = seed
        self.encoder = Encoder(HERE / "tokenizer.json")

    def __len__(self):
        return self.count

    def sample(self, rng, kind, ramp):
        if kind.startswith("crowded"):
            return draw.make_crowd(rng, kind.split()[1])
        return draw.make_sample(rng, kind, 0, most=min(4, 2 + int(3 * ramp)))

    def group(self, rng, part, ramp):
        samples = [self.sample(rng, part.kind, ramp) for _ in range(part.pictures)]
        images = [shrink(rng, sample.picture, self.size) for sample in samples]
        turns = part.room // 11  # more than fit
        talks = [[draw.converse(rng, s.task, s.content, turns, draw.LANGUAGES, hard=True)
                  for _ in range(part.talks)]
                 for s in samples]
        return Group(self.encoder, samples, images, talks, part.room, self.side)

    def __getitem__(self, index):
        rng = random.Random(f"train {self.seed} {index}")
        stage, start = stage_of(index)
        ramp = (index - start) / RAMP
        return [self.group(rng, part, ramp) for part in stage.parts]


def normalize(images, device):
    """Bytes [batch, size, size, 3] to the tower's input."""
    pixels = images.to(device).float() / 255
    mean, std = (torch.tensor(c, device=device) for c in (MEAN, STD))
    return ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


def answers(model, features, group):
    """Logits and labels at every labelled place of a group, and the row each belongs to."""
    device = features.device
    features = features.repeat_interleave(group.talks, dim=0)
    hidden = model.hidden(group.ids.to(device), features)[:, 1 + features.shape[1]:]
    labels = group.labels.to(device)
    places = labels != IGNORE
    return model.lm_head(hidden[places]), labels[places], places


class Sight(torch.nn.Module):
    """Heads for training only: what stands in each patch of the tower's output, and, for each image
    token that the decoder gets, which one it is and what its four patches hold."""

    def __init__(self, config):
        super().__init__()
        vision = config["vision_config"]
        self.side = vision["image_size"] // vision["patch_size"]
        self.patch_head = torch.nn.Linear(vision["hidden_size"], draw.POINT_CLASSES)
        self.cell_head = torch.nn.Linear(config["hidden_size"], 4 * draw.POINT_CLASSES)
        self.place_head = torch.nn.Linear(config["hidden_size"], self.side ** 2 // 4)

    def patch_loss(self, patches, classes):
        return F.cross_entropy(self.patch_head(patches).flatten(0, 1), classes.flatten())

    def cell_loss(self, tokens, classes):
        batch, count, _ = tokens.shape
        half = self.side // 2
        inside = classes.view(batch, half, 2, half, 2).transpose(2, 3).reshape(-1)
        held = F.cross_entropy(self.cell_head(tokens).view(-1, draw.POINT_CLASSES), inside)
        places = torch.arange(count, device=tokens.device).expand(batch, count)
        return held + 0.3 * F.cross_entropy(self.place_head(tokens).flatten(0, 1), places.flatten())


def step_loss(model, sight, groups, device, sight_weight):
    """The loss to descend and, for the log, those of answers and of patches alone."""
    images = torch.cat([group.images for group in groups])
    patches = model.model.vision.tower(normalize(images, device))
    classes = torch.cat([group.classes for group in groups]).to(device)
    seen = sight.patch_loss(patches, classes)
    asked = [group for group in groups if group.talks]
    if not asked:
        return seen, 0.0, seen.item()
    # Crowded pictures stand last, so those with questions are the first rows.
    shown = sum(len(group.images) for group in asked)
    features = model.model.vision.features(patches[:shown])
    seen = seen + sight.cell_loss(features[:, 1:-1], classes[:shown])
    loss, start = 0.0, 0
    for group in asked:
        logits, labels, _ = answers(model, features[start:start + len(group.images)], group)
        loss = loss + F.cross_entropy(logits, labels) / len(asked)
        start += len(group.images)
    return loss + sight_weight * seen, loss.item(), seen.item()


def held_out(config, encoder, task, language, count, seed=0, turns=3):
    """A Group of pictures that training never sees."""
    size = config["vision_config"]["image_size"]
    rngs = [draw.held_out_rng(f"{seed} {task} {language}", i) for i in range(count)]
    samples = [draw.make_sample(rng, task, turns, (language,)) for rng in rngs]
    images = [np.asarray(s.picture.resize((size, size), Image.BICUBIC)) for s in samples]
    side = size // config["vision_config"]["patch_size"]
    return Group(encoder, samples, images, [[s.turns] for s in samples], 80, side)


@torch.no_grad()
def exact_match(model, group, device):
    """Share of turns answered exactly, end included, with the history's right answers given.

    Greedy decoding equals the wanted answer just when every one of its tokens is the likeliest
    after the wanted ones before it.
    """
    features = model.model.vision(normalize(group.images, device))
    logits, labels, places = answers(model, features, group)
    right = torch.zeros(places.shape, dtype=torch.bool)
    right[places.cpu()] = (logits.argmax(-1) == labels).cpu()
    scored, good = 0, 0
    for row_right, row_labels in zip(right, group.labels):
        turn_right = True
        for ok, label in zip(row_right.tolist(), row_labels.tolist()):
            if label == IGNORE:
                continue
            turn_right = turn_right and ok
            if label == EOS[0]:
                scored, good, turn_right = scored + 1, good + turn_right, True
    return good / scored


def split_for_muon(model):
    """The matrices between rows of the tower, adapter and decoder, and all other parameters."""
    def between_rows(name, parameter):
        return parameter.dim() > 1 and not any(
            part in name for part in ("embed", "lm_head", "boi", "eoi"))
    named = list(model.named_parameters())
    return ([p for name, p in named if between_rows(name, p)],
            [p for name, p in named if not between_rows(name, p)])


class Trainer:
    """Owns model, optimiser and the folder where the run is kept."""

    def __init__(self, options):
        self.options = options
        self.config = json.loads((HERE / "config.json").read_text())
        torch.manual_seed(options.seed)
        self.model = CogVlm(self.config).to(options.device)
        initialize(self.model)
        self.sight = Sight(self.config).to(options.device)
        self.parameters = [*self.model.parameters(), *self.sight.parameters()]
        matrices, others = split_for_muon(self.model)
        others += self.sight.parameters()
        self.muon = Muon(matrices, lr=0.0, weight_decay=0.05)
        self.adam = torch.optim.AdamW(
            [{"params": [p for p in others if p.dim() > 1], "weight_decay": 0.05},
             {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0}],
            lr=0.0, betas=(0.9, 0.98), eps=1e-8)
        self.index = 0  # next batch
        self.seconds = 0.0  # trained so far
        self.stopped = False
        self.file = options.work / "checkpoint.pt"
        if self.file.exists():
            self.resume()

    def resume(self):
        kept = torch.load(self.file, map_location=self.options.device)
        self.model.load_state_dict(kept["model"])
        self.sight.load_state_dict(kept["sight"])
        self.adam.load_state_dict(kept["adam"])
        self.muon.load_state_dict(kept["muon"])
        self.index, self.seconds = kept["index"], kept["seconds"]
        print(f"resumed at batch {self.index}, minute {self.seconds / 60:.1f}", flush=True)

    def keep(self):
        kept = {"model": self.model.state_dict(), "sight": self.sight.state_dict(),
                "adam": self.adam.state_dict(), "muon": self.muon.state_dict(),
                "index": self.index, "seconds": self.seconds}
        partial = self.file.with_suffix(".partial")
        torch.save(kept, partial)
        os.replace(partial, self.file)

    def stop(self, *_):
        self.stopped = True

    def progress(self):
        return self.index / self.options.batches

    def set_rates(self):
        """Gives both optimisers this batch's learning rates; returns the share of their peaks."""
        stage, start = stage_of(self.index)
        done = self.index - start
        length = min(stage.batches, self.options.batches - start)
        share = min(1.0, (done + 1) / stage.rise) * max(stage.least, 1 - done / length)
        for optimizer, peak in ((self.adam, ADAM_RATE), (self.muon, stage.muon_rate)):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
        return share

    def step(self, groups):
        share = self.set_rates()
        loss, answer_loss, sight_loss = step_loss(self.model, self.sight, groups, self.options.device,
                                                  1 - self.progress())
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.step()
        self.muon.step()
        self.index += 1
        return answer_loss, sight_loss, share

    def score(self, groups):
        parts = [f"{task}/{language} {100 * exact_match(self.model, group, self.options.device):.1f}"
                 for (task, language), group in groups.items()]
        print(f"minute {self.seconds / 60:.1f} held-out: " + "  ".join(parts), flush=True)

    def loader(self):
        batches = Batches(self.config, self.options.seed, self.options.batches)
        return DataLoader(batches, batch_size=None, sampler=range(self.index, len(batches)),
                          num_workers=self.options.draw_processes, prefetch_factor=48)

    def run(self):
        encoder = Encoder(HERE / "tokenizer.json")
        tests = {(task, language): held_out(self.config, encoder, task, language, 64)
                 for task in draw.TASKS for language in draw.LANGUAGES}
        last = kept = scored = logged = time.monotonic()
        losses, waited, pictures = [], 0.0, 0
        signal.signal(signal.SIGTERM, self.stop)
        loader = iter(self.loader())
        while self.progress() < 1 and not self.stopped:
            started = time.monotonic()
            groups = next(loader)
            waited += time.monotonic() - started
            losses.append(self.step(groups))
            pictures += sum(len(group.images) for group in groups)
            now = time.monotonic()
            self.seconds += now - last
            last = now
            if now - logged > 20:
                answer_loss, sight_loss, share = np.mean(losses, axis=0)
                speed = pictures / (now - logged)
                print(f"minute {self.seconds / 60:.1f} batch {self.index} of {self.options.batches} "
                      f"answers {answer_loss:.4f} sight {sight_loss:.4f} rate {100 * share:.0f} % "
                      f"{speed:.1f} pictures/s waited {waited:.1f} s", flush=True)
                losses, waited, pictures, logged = [], 0.0, 0, now
            if now - scored > 60 * self.options.score_every:
                self.score(tests)
                scored = now
            if now - kept > 120:
                self.keep()
                kept = now
        self.keep()
        self.score(tests)


def main():
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for checkpoints")
    parser.add_argument("--batches", type=int, default=11000, help="length of the run (default 11000)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--score-every", type=float, default=4, help="minutes between held-out scores")
    parser.add_argument("--draw-processes", type=int, default=1, help="more for a GPU (default 1)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    Trainer(options).run()


if __name__ == "__main__":
    main()
