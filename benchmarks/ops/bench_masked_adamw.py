"""masked_adamw, through its optimizer, against torch's AdamW with and without masks after it."""

from sparsetrain.bench.optim import case
from sparsetrain.measure.timing import main

if __name__ == "__main__":
    main(lambda device: [case("adamw", device)])
