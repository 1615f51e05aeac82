"""The verb `reproduce`: the rows of a paper's tables, trained as published, beside what was published."""
