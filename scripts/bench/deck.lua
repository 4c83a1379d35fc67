-- Lets wrk send the requests of a deck (deck.py) in random order, and print a report (sample.py).
--
-- Started as: wrk --threads 1 ... --script deck.lua URL -- DECK SEED bulk|single

local threads = {}
local requests = {}
local key_prefix
local keys = 0

function setup(thread)
  table.insert(threads, thread)
end

local function read_deck(path)
  local file = assert(io.open(path, "rb"))
  while true do
    local head, tail = file:read("*n", "*n")
    if not head then break end
    file:read(1) -- the line's end
    table.insert(requests, { file:read(head), tail > 0 and file:read(tail) })
  end
  file:close()
end

function init(arguments)
  math.randomseed(tonumber(arguments[2]))
  key_prefix = "bench-" .. arguments[2] .. "-"
  refused_inside = 0
  read_deck(arguments[1])
  if arguments[3] == "bulk" then
    -- A bulk answer is 200 whatever became of its operations; the first field tells.
    response = function(_, _, body)
      if body:sub(1, 15) ~= '{"errors":false' then
        refused_inside = refused_inside + 1
      end
    end
  end
end

function request()
  local chosen = requests[math.random(#requests)]
  if not chosen[2] then return chosen[1] end
  keys = keys + 1
  return chosen[1] .. key_prefix .. keys .. chosen[2]
end

-- Latencies as quantiles, each standing for a share of the requests: a thousandth of them below
-- the 99th percentile, a hundred-thousandth above it.
local function print_latencies(latency)
  for i = 0, 989 do
    print(latency:percentile((i + 0.5) / 10), 0.001)
  end
  for i = 0, 999 do
    print(latency:percentile(99 + (i + 0.5) / 1000), 0.00001)
  end
end

function done(summary, latency)
  local errors = summary.errors
  local refused = errors.status
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("refused_inside")
  end
  print("sample")
  print(summary.requests, summary.duration, refused,
    errors.connect + errors.read + errors.write + errors.timeout)
  print_latencies(latency)
end
