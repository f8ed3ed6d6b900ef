"""masked_sgd, through its optimizer, against torch's SGD with and without masks after it."""

from sparsetrain.bench.optim import case
from sparsetrain.measure.timing import main

if __name__ == "__main__":
    main(lambda device: [case("sgd", device)])
