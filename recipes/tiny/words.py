"""The vocabulary of the generated stories: every line is one slot that a sentence template may name."""

GIRLS = "anna mia lily rosa clara nina ella sara zoe maya ivy tara june wanda olive daisy helen"
BOYS = "tom ben sam max leo jack finn omar theo noah paul milo hugo felix oscar eric"
ANIMALS = "fox bear rabbit mouse owl frog duck turtle cat dog goat pig squirrel hedgehog badger otter"

_SLOTS = """
size: little, big, tiny, small, huge, tall, long, short
color: red, blue, green, yellow, white, black, brown, golden, silver, purple, pink, orange, grey
look: shiny, old, new, soft, heavy, light, round, broken, pretty, strange, clean, dirty, smooth, warm
trait: brave, kind, curious, clever, shy, funny, quiet, cheerful, careful, lazy, gentle, stubborn, proud
thing: ball, kite, drum, boat, hat, coat, box, book, lamp, bell, key, ring, cup, basket, blanket, rope,
  ladder, bucket, whistle, wagon, spoon, shoe, stone, shell, feather, mirror, map, button, flute,
  candle, umbrella, scarf, pencil, violin, robot, doll, puzzle, clock, train
food: bread, soup, cake, honey, cheese, apples, berries, nuts, carrots, pancakes, cookies, jam, pie
place: the forest, the park, the river, the old mill, the village, the beach, the garden, the market,
  the hill, the lake, the farm, the school, the barn, the bridge, the harbor, the meadow, the castle,
  the library, the station
hiding: under a bush, behind the door, in the tall grass, under the bed, inside a hollow tree, near the
  well, on top of the shelf, between two rocks, in the mud, at the bottom of the stairs, beside the pond
when: one day, one morning, one sunny afternoon, one cold evening, last summer, early in spring, one
  windy day, on a quiet night, after breakfast, before dinner, on the first day of winter
later: then, after that, a little later, soon, in the end, the next day, at last, by and by
job: farmer, baker, teacher, sailor, painter, doctor, gardener, miller, king, queen, shepherd, carpenter
elder: mother, father, grandmother, grandfather, uncle, aunt
mood: happy, proud, glad, cheerful, calm, thankful
gloom: sad, worried, afraid, tired, lonely, upset
manner: slowly, quickly, quietly, carefully, bravely, gently, happily, loudly, softly
many: two, three, four, five, six, seven, ten, twelve
play: hide and seek, chess, a guessing game, catch, a singing game, pirates
sound: a loud crash, a soft voice, a strange song, a knock at the door, a low growl, a bell
lesson: it is good to share, a friend is worth more than gold, you should always tell the truth, even
  the smallest one can help, it is better to ask than to guess, good things take time, you must look
  where you walk, being kind costs nothing
"""

WORDS: dict[str, tuple[str, ...]] = {
    slot: tuple(words.strip().split(", "))
    for slot, words in (line.split(": ") for line in _SLOTS.replace("\n  ", " ").strip().splitlines())
}
"""The words of each slot, in the order of the table."""

CAUSES: tuple[tuple[str, str], ...] = (
    ("it began to rain", "{hero} ran under a tree to stay dry"),
    ("the sun was very hot", "{hero} sat in the shade and drank cold water"),
    ("the wind was strong", "{poss} hat flew away over the fields"),
    ("it was snowing", "{hero} put on a warm coat and a scarf"),
    ("the path was covered with ice", "{hero} slipped and fell down"),
    ("it was getting dark", "{hero} lit a lamp and walked close to {friend}"),
    ("the bridge was broken", "they had to swim across the water"),
    ("the door was locked", "they climbed in through the window"),
    ("{hero} had not eaten all day", "{poss} belly made a funny noise"),
    ("{hero} had not slept well", "{subj} yawned and rubbed {poss} eyes"),
    ("the baby was asleep", "everybody spoke in a whisper"),
    ("the road was long", "{poss} feet began to hurt"),
)
"""What happens, and what follows from it."""
