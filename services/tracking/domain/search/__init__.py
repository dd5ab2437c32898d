"""MLflow's search grammar: text → tokens → comparisons, and what they mean of a run in memory.

    filter      = [ comparison { "AND" comparison } ]
    comparison  = field ( operator value | ["NOT"] "IN" list | "IS" ["NOT"] "NULL" )
    list        = "(" text { "," text } ")"
    operator    = "=" | "!=" | ">" | ">=" | "<" | "<=" | "LIKE" | "ILIKE"
    field       = [ kind "." ] key
    key         = word | "`" anything "`" | '"' anything '"'
    order_by    = field [ "ASC" | "DESC" ]

Keywords are read in any case. Text stands in single or double quotes; a doubled quote is one quote.
A comparison with something that a run does not have is false, whatever the operator; only IS NULL
is true of it.
"""
