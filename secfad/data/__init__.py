"""Data of many clients: generators, partitions, and readers of files that the user has.

    synthetic            Synthetic(alpha, beta), made from a seed
    digits               8 x 8 digits of scikit-learn, with `partitions`
    shakespeare          speaking roles of a local text file
    leaf, hdf5           the two layouts in which federated data sets are published
    partitions           iid, dirichlet, shards, by_id
    stacking             unequal clients as padded, masked arrays and mini-batches

Sources: named in each module.
"""

from secfad.data.errors import DataError as DataError
from secfad.data.errors import FormatError as FormatError
from secfad.data.errors import MissingExtra as MissingExtra
from secfad.data.hdf5 import Hdf5Clients as Hdf5Clients
from secfad.data.leaf import read_leaf as read_leaf
from secfad.data.stacking import minibatches as minibatches
from secfad.data.stacking import stack as stack
from secfad.data.synthetic import ClientArrays as ClientArrays
from secfad.data.synthetic import SyntheticData as SyntheticData
from secfad.data.synthetic import synthetic as synthetic
