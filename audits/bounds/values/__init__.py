"""What a fact is made of: amounts, keys, sets, numbers of a dtype, and the site of an equation."""
