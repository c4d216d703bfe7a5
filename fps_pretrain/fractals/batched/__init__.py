"""The recipe as batched torch operations, for pairs that are made on the device that trains.

Each module does what the one of the same name does in compiled code. The random numbers and all steps of the arithmetic
are the same, so a key gives the same picture in both. Devices may round differently: then a point on the border of two
cells may fall into the other one, and a mean or an exponential may differ in the last digits.

Nothing waits for the device: the number of objects in each view is also computed on the host, from the same keys.
"""
