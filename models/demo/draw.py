#!/usr/bin/env python3
"""Draws the demo model's pictures and writes the questions about them.

Two tasks, each in English and Chinese, all deterministic from a seed:

  scenes   one to four coloured shapes, one in each quarter: colour, shape, count, place, neighbours
  numbers  one printed number of one to four digits

As a program it writes pictures (PNG, JPEG and WebP by turns) and `questions.json`:

    draw.py --seed 7 --count 3 --out DIR [--task scenes]

Needs Pillow and the DejaVu fonts (Debian: python3-pil, fonts-dejavu-core).
"""

import argparse
import json
import math
import pathlib
import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

TASKS = ("scenes", "numbers")
LANGUAGES = ("en", "zh")

SHAPES = {"circle": "圆形", "square": "方形", "triangle": "三角形", "star": "星形", "diamond": "菱形"}
COLOURS = {
    "red": ("红色", (214, 32, 36)),
    "green": ("绿色", (30, 150, 56)),
    "blue": ("蓝色", (34, 68, 210)),
    "yellow": ("黄色", (242, 206, 16)),
    "orange": ("橙色", (245, 130, 20)),
    "purple": ("紫色", (134, 44, 168)),
    "black": ("黑色", (20, 20, 22)),
}
PLACES = (("top left", "左上角"), ("top right", "右上角"), ("bottom left", "左下角"),
          ("bottom right", "右下角"))
DIGITS = "0123456789"

FONT_FOLDER = pathlib.Path("/usr/share/fonts/truetype/dejavu")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono-Bold")

# Classes of what stands at a point of a picture, for the trainer's auxiliary loss:
# 0 nothing, then every shape in every colour, then every digit.
POINT_CLASSES = 1 + len(SHAPES) * len(COLOURS) + len(DIGITS)


@dataclass
class Turn:
    """One question and the only answer that counts as right."""
    question: str
    answer: str
    language: str


@dataclass
class Thing:
    """One shape in a scene. `cell` is its quarter: 0..3, row by row."""
    shape: str
    colour: str
    cell: int

    @property
    def row(self):
        return self.cell // 2

    @property
    def column(self):
        return self.cell % 2

    def name(self, language):
        if language == "en":
            return f"{self.colour} {self.shape}"
        return COLOURS[self.colour][0] + SHAPES[self.shape]


@dataclass
class Sample:
    """A picture, what it shows, and a conversation about it.

    `content` is the list of things of a scene, or a number's digits; `converse` asks about it.
    `boxes` holds (class, left, top, right, bottom), as fractions of the picture: what the
    auxiliary loss looks for.
    """
    task: str
    picture: Image.Image
    content: object
    turns: list
    boxes: list


# --- pictures ---------------------------------------------------------------------------------


def canvas(rng, largest):
    """A plain background of any size, mostly not square; returns it with its drawing context."""
    width = rng.randint(112, largest)
    height = min(448, max(112, round(width * rng.uniform(0.8, 1.25))))
    light = rng.randint(222, 255)
    background = tuple(min(255, light + rng.randint(-10, 10)) for _ in range(3))
    picture = Image.new("RGB", (width, height), background)
    return picture, ImageDraw.Draw(picture)


def vary(rng, colour):
    return tuple(max(0, min(255, c + rng.randint(-14, 14))) for c in colour)


def polygon(shape, x, y, rx, ry):
    if shape == "triangle":
        return [(x, y - ry), (x + rx, y + ry), (x - rx, y + ry)]
    if shape == "diamond":
        return [(x, y - ry), (x + 0.8 * rx, y), (x, y + ry), (x - 0.8 * rx, y)]
    points = []
    for i in range(10):
        radius = 1.12 if i % 2 == 0 else 0.46
        angle = math.pi * i / 5 - math.pi / 2
        points.append((x + rx * radius * math.cos(angle), y + ry * radius * math.sin(angle)))
    return points


def draw_thing(rng, drawing, size, thing):
    """Draws a shape somewhere in its cell; returns its box for the auxiliary loss."""
    width, height = size
    radius = rng.uniform(0.11, 0.17)
    slack = 1 / 4 - radius - 0.02
    fx = (thing.column + 0.5) / 2 + rng.uniform(-slack, slack)
    fy = (thing.row + 0.5) / 2 + rng.uniform(-slack, slack)
    x, y = fx * width, fy * height
    # Shapes keep their own proportions on a picture that is not square.
    rx = ry = radius * min(width, height)
    fill = vary(rng, COLOURS[thing.colour][1])
    if thing.shape == "circle":
        drawing.ellipse((x - rx, y - ry, x + rx, y + ry), fill=fill)
    elif thing.shape == "square":
        drawing.rectangle((x - 0.88 * rx, y - 0.88 * ry, x + 0.88 * rx, y + 0.88 * ry), fill=fill)
    else:
        drawing.polygon(polygon(thing.shape, x, y, rx, ry), fill=fill)
    kind = 1 + list(SHAPES).index(thing.shape) * len(COLOURS) + list(COLOURS).index(thing.colour)
    return (kind, fx - rx / width, fy - ry / height, fx + rx / width, fy + ry / height)


def draw_scene(rng, count, largest):
    """Returns the picture, its `count` things in reading order, and their boxes."""
    picture, drawing = canvas(rng, largest)
    # Drawing from few shapes and colours makes repeats, so that counting has something to count.
    shapes = rng.sample(list(SHAPES), rng.choice((2, 3, len(SHAPES))))
    colours = rng.sample(list(COLOURS), rng.choice((2, 4, len(COLOURS))))
    things = [Thing(rng.choice(shapes), rng.choice(colours), cell)
              for cell in sorted(rng.sample(range(4), count))]
    boxes = [draw_thing(rng, drawing, picture.size, thing) for thing in things]
    return picture, things, boxes


@lru_cache(maxsize=512)
def load_font(name, size):
    return ImageFont.truetype(str(FONT_FOLDER / f"{name}.ttf"), size)


def print_line(rng, picture, text, band, ink):
    """Prints `text` as large as fits between the heights `band`; returns a box for each glyph."""
    width, height = picture.size
    above, room = band[0] * height, (band[1] - band[0]) * height
    name = rng.choice(FONTS)
    widest = 0.93 * width / (load_font(name, 100).getlength(text) / 100)
    size = int(rng.uniform(0.75, 1) * min(widest, 0.44 * height, 0.9 * room))
    font = load_font(name, size)
    left, top, right, bottom = font.getbbox(text)
    x = rng.uniform(0.02 * width, max(0.02 * width, 0.98 * width - (right - left))) - left
    y = above + rng.uniform(0.02 * room, max(0.02 * room, 0.98 * room - (bottom - top))) - top
    ImageDraw.Draw(picture).text((x, y), text, font=font, fill=ink)
    boxes = []
    for i, glyph in enumerate(text):
        start = x + font.getlength(text[:i])
        end = x + font.getlength(text[:i + 1])
        kind = 1 + len(SHAPES) * len(COLOURS) + DIGITS.index(glyph)
        boxes.append((kind, start / width, (y + top) / height, end / width, (y + bottom) / height))
    return boxes


def draw_text(rng, lines, largest):
    """Prints `lines` one below the other; returns the picture and a box for each glyph."""
    picture, _ = canvas(rng, largest)
    ink = vary(rng, rng.choice([c for name, (_, c) in COLOURS.items() if name != "yellow"]))
    boxes = []
    for i, line in enumerate(lines):
        boxes += print_line(rng, picture, line, (i / len(lines), (i + 1) / len(lines)), ink)
    return picture, boxes


# --- questions --------------------------------------------------------------------------------


def pick(rng, language, english, chinese):
    return rng.choice(english if language == "en" else chinese)


class SceneQuestions:
    """Asks about one scene; every question has exactly one right answer.

    `topic` is the thing that the last turn was about, which a follow-up may call "it".
    """

    def __init__(self, rng, things, hard=False):
        """`hard` asks more often what is learned last, and fewer follow-ups: for training."""
        self.rng = rng
        self.things = things
        self.topic = None
        self.follow_ups = 0.15 if hard else 0.4
        self.weights = (2, 2, 5, 6, 7, 5, 3, 1) if hard else (3, 3, 4, 3, 5, 3, 2, 1)
        self.kinds = (self.colour, self.shape, self.count, self.where, self.at, self.exists,
                      self.neighbour, self.everything)

    def ask(self, language):
        """One more turn in `language`."""
        if self.topic and self.rng.random() < self.follow_ups:
            return self.follow_up(language)
        asked = None
        while asked is None:
            topic, self.topic = self.topic, None
            kind = self.rng.choices(self.kinds, self.weights)[0]
            asked = kind(language)
            if asked is None:
                self.topic = topic
        return Turn(asked[0], asked[1], language)

    def follow_up(self, language):
        thing = self.topic
        asked = {
            "colour": (pick(self.rng, language, ["What colour is it?"], ["它是什么颜色？"]),
                       self.colour_name(thing, language)),
            "shape": (pick(self.rng, language, ["What shape is it?"], ["它是什么形状？"]),
                      self.shape_name(thing, language)),
            "place": (pick(self.rng, language, ["Where is it?"], ["它在哪里？"]),
                      self.place_name(thing.cell, language)),
        }[self.rng.choice(("colour", "shape", "place"))]
        return Turn(asked[0], asked[1], language)

    @staticmethod
    def colour_name(thing, language):
        return thing.colour if language == "en" else COLOURS[thing.colour][0]

    @staticmethod
    def shape_name(thing, language):
        return thing.shape if language == "en" else SHAPES[thing.shape]

    @staticmethod
    def place_name(cell, language):
        return PLACES[cell][language == "zh"]

    def single(self, same):
        """Any thing that no other equals under `same`, or None."""
        alone = [t for t in self.things if sum(same(t, o) for o in self.things) == 1]
        return self.rng.choice(alone) if alone else None

    def colour(self, language):
        self.topic = thing = self.single(lambda a, b: a.shape == b.shape)
        if thing is None:
            return None
        name = self.shape_name(thing, language)
        return (pick(self.rng, language, [f"What colour is the {name}?", f"What color is the {name}?"],
                     [f"{name}是什么颜色？", f"{name}是什么颜色的？"]), self.colour_name(thing, language))

    def shape(self, language):
        self.topic = thing = self.single(lambda a, b: a.colour == b.colour)
        if thing is None:
            return None
        name = self.colour_name(thing, language)
        return (pick(self.rng, language, [f"What shape is {name}?", f"What shape is the {name} object?"],
                     [f"{name}的是什么形状？", f"{name}的物体是什么形状？"]), self.shape_name(thing, language))

    def count(self, language):
        way = self.rng.random()
        if way < 0.3:
            return (pick(self.rng, language, ["How many objects are there?", "How many shapes are there?"],
                         ["图中有几个物体？", "图中有几个形状？"]), str(len(self.things)))
        # Mostly something that is there; sometimes nothing of the kind.
        model = self.rng.choice(self.things)
        if way < 0.65:
            shape = model.shape if self.rng.random() < 0.75 else self.rng.choice(list(SHAPES))
            number = sum(t.shape == shape for t in self.things)
            return (pick(self.rng, language, [f"How many {shape}s are there?"],
                         [f"图中有几个{SHAPES[shape]}？", f"有几个{SHAPES[shape]}？"]), str(number))
        colour = model.colour if self.rng.random() < 0.75 else self.rng.choice(list(COLOURS))
        number = sum(t.colour == colour for t in self.things)
        name = COLOURS[colour][0]
        return (pick(self.rng, language, [f"How many {colour} objects are there?"],
                     [f"图中有几个{name}的物体？", f"有几个{name}的？"]), str(number))

    def name_of_single(self, language):
        """A thing and a name that means it alone, or (None, None)."""
        thing = self.single(lambda a, b: (a.shape, a.colour) == (b.shape, b.colour))
        if thing is None:
            return None, None
        by_shape = sum(t.shape == thing.shape for t in self.things) == 1
        if by_shape and self.rng.random() < 0.6:
            return thing, self.shape_name(thing, language)
        return thing, thing.name(language)

    def where(self, language):
        self.topic, name = self.name_of_single(language)
        if self.topic is None:
            return None
        return (pick(self.rng, language, [f"Where is the {name}?"], [f"{name}在哪里？", f"{name}在什么位置？"]),
                self.place_name(self.topic.cell, language))

    def at(self, language):
        cell = self.rng.choice(self.things).cell if self.rng.random() < 0.75 else self.rng.randrange(4)
        self.topic = next((t for t in self.things if t.cell == cell), None)
        place = self.place_name(cell, language)
        answer = self.topic.name(language) if self.topic else ("nothing" if language == "en" else "没有")
        return (pick(self.rng, language, [f"What is at the {place}?"],
                     [f"{place}是什么？", f"{place}有什么？"]), answer)

    def exists(self, language):
        model = self.rng.choice(self.things)
        wanted = Thing(model.shape, model.colour, 0)
        if self.rng.random() < 0.6:
            if self.rng.random() < 0.5:
                wanted.shape = self.rng.choice(list(SHAPES))
            else:
                wanted.colour = self.rng.choice(list(COLOURS))
        found = any((t.shape, t.colour) == (wanted.shape, wanted.colour) for t in self.things)
        name = wanted.name(language)
        if language == "en":
            article = "an" if name[0] in "aeiou" else "a"
            return f"Is there {article} {name}?", "yes" if found else "no"
        return (self.rng.choice((f"有{name}吗？", f"图中有{name}吗？")), "有" if found else "没有")

    def neighbour(self, language):
        thing, name = self.name_of_single(language)
        if thing is None:
            return None
        ways = [
            ("left of", "左边", lambda t: t.column < thing.column),
            ("right of", "右边", lambda t: t.column > thing.column),
            ("above", "上面", lambda t: t.row < thing.row),
            ("below", "下面", lambda t: t.row > thing.row),
        ]
        self.rng.shuffle(ways)
        for english, chinese, test in ways:
            found = [t for t in self.things if test(t)]
            # With none there, ask only now and then: "nothing" must not be a safe guess.
            if len(found) == 1 or (not found and self.rng.random() < 0.12):
                self.topic = found[0] if found else None
                answer = found[0].name(language) if found else ("nothing" if language == "en" else "没有")
                return (f"What is {english} the {name}?" if language == "en"
                        else f"{name}{chinese}是什么？"), answer
        return None

    def everything(self, language):
        names = [t.name(language) for t in self.things]
        self.topic = self.things[0] if len(names) == 1 else None
        return (pick(self.rng, language, ["What is in the picture?", "What do you see?"],
                     ["图中有什么？", "图里有什么？"]), (", " if language == "en" else "、").join(names))


def number_turn(rng, text, language):
    way = rng.random()
    if way < 0.7:
        return Turn(pick(rng, language, ["What number is shown?", "What is the number?", "Read the number."],
                         ["图中的数字是多少？", "这个数字是多少？", "读出数字。"]), text, language)
    if way < 0.8:
        return Turn(pick(rng, language, ["How many digits are there?"], ["有几位数字？"]), str(len(text)), language)
    if way < 0.9:
        return Turn(pick(rng, language, ["What is the first digit?"], ["第一位数字是什么？"]), text[0], language)
    return Turn(pick(rng, language, ["What is the last digit?"], ["最后一位数字是什么？"]), text[-1], language)


# --- samples ----------------------------------------------------------------------------------


def converse(rng, task, content, turns, languages, hard=False):
    """A conversation of `turns` questions, each in one of `languages`."""
    if task == "scenes":
        questions = SceneQuestions(rng, content, hard)
        return [questions.ask(rng.choice(languages)) for _ in range(turns)]
    return [number_turn(rng, content, rng.choice(languages)) for _ in range(turns)]


def make_sample(rng, task, turns=3, languages=LANGUAGES, most=4, largest=448):
    """Draws one picture and asks about it.

    `most` bounds the things in a scene or the digits of a number, `largest` the picture's width.
    """
    if task == "scenes":
        picture, content, boxes = draw_scene(rng, rng.randint(1, most), largest)
    else:
        content = "".join(rng.choice(DIGITS) for _ in range(rng.randint(1, most)))
        picture, boxes = draw_text(rng, [content], largest)
    return Sample(task, picture, content, converse(rng, task, content, turns, languages), boxes)


def make_crowd(rng, task, largest=448):
    """A crowded picture without questions: what the tower first learns to see by."""
    if task == "scenes":
        picture, content, boxes = draw_scene(rng, len(PLACES), largest)
    else:
        content = ["".join(rng.choice(DIGITS) for _ in range(rng.randint(3, 5)))
                   for _ in range(rng.randint(2, 3))]
        picture, boxes = draw_text(rng, content, largest)
    return Sample(task, picture, content, [], boxes)


def held_out_rng(seed, index):
    """The generator of held-out picture `index`; the trainer's seeds never meet these."""
    return random.Random(f"held-out {seed} {index}")


def main():
    parser = argparse.ArgumentParser(description="Draw pictures and write questions about them.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=3, help="pictures to draw (default 3)")
    parser.add_argument("--turns", type=int, default=3, help="questions about each (default 3)")
    parser.add_argument("--task", choices=TASKS, help="draw one task only (default: by turns)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write to")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    listing = []
    tasks = (options.task,) if options.task else TASKS
    for index in range(options.count):
        sample = make_sample(held_out_rng(options.seed, index), tasks[index % len(tasks)], options.turns)
        kind = ("png", "jpeg", "webp")[index % 3]
        name = f"picture-{index + 1}.{kind}"
        quality = {} if kind == "png" else {"quality": 92}
        sample.picture.save(options.out / name, **quality)
        listing.append({"file": name, "task": sample.task, "turns": [vars(t) for t in sample.turns]})
    text = json.dumps(listing, ensure_ascii=False, indent=1)
    (options.out / "questions.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
