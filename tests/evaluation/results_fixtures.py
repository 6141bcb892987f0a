"""A made set of pictures, with the oddities of real captions, and what COCO's own evaluation says of it."""

import shutil

import pytest

needs_java = pytest.mark.skipif(not shutil.which("java"), reason="needs Java")

REFERENCES = {
    "dog": ["A dog's toy on the street.", "A brown dog plays with a toy, outside", "The dog (a puppy) plays."],
    "clock": ["A clock that says 8:25.", 'An old clock; it reads "8:25"', "It's a clock on a building..."],
    "shirt": ["A boy in a white t-shirt doesn't look.", "A well-dressed boy", "a boy & a shirt", "One boy - in white"],
    "cat": ["A cat sits on the sofa.", "The cat is on a sofa/couch\nin a room"],
    "bus": ["A café with a red bus in front", "A double-decker bus at 9:00am on 5th St. near a café"],
    "odd": ["EVAL ||| 1 “dog” 🎬", "A screen reads EVAL ||| 1"],
    "empty": ["Nothing is to be seen here.", "An empty room."],
}
PREDICTIONS = {
    "dog": "a brown dog's toy is on the street",
    "clock": "a clock on a building that says 8:25",
    "shirt": "a boy in a white t-shirt doesn't look at a dog",
    "cat": "a cat sitting on a sofa",
    "bus": "a red double-decker bus, at a café!",
    "odd": "a “dog” ||| EVAL ||| 1 🎬",
    "empty": "",
}
