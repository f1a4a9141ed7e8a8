"""What Redis does for the event log in one step each. Redis 7 and Valkey 9 both run all of it.

KEYS: 1 the stream, 2 the redriven entries of one group, 3 its dead letters. All have one hash tag, so a cluster keeps
them together. `~parked` is a consumer that nobody is: what is pending for it waits for its delay, in Redis, so that any
process can take it up when the one that failed is gone.
"""

PARKED = "~parked"

# The last position: of a stream that was trimmed empty too, hence not from its entries.
_LAST = """
local function last_of(key)
  if redis.call('EXISTS', key) == 0 then return 0 end
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
end
"""

LAST = _LAST + "return last_of(KEYS[1])"

# ARGV: after, then position and payload in turn.
APPEND = (
    _LAST
    + """
if last_of(KEYS[1]) == tonumber(ARGV[1]) then
  for i = 2, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i] .. '-0', 'e', ARGV[i + 1]) end
end
return last_of(KEYS[1])
"""
)

# KEYS: the stream, then dead letters and redriven entries of every group. ARGV: the groups that must be there.
# The position of a dead letter is in its entry, and there are few: the consumers keep to a limit.
TRIM = """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local floor, present = nil, {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  present[group['name']] = true
  local through = tonumber(string.match(group['last-delivered-id'], '^%d+'))
  if tonumber(group['pending']) > 0 then
    local oldest = redis.call('XPENDING', KEYS[1], group['name'])[2]
    through = math.min(through, tonumber(string.match(oldest, '^%d+')) - 1)
  end
  floor = math.min(floor or through, through)
end
if floor == nil then return false end
for _, name in ipairs(ARGV) do if not present[name] then return false end end
local settled = floor
for k = 2, #KEYS do
  for _, entry in ipairs(redis.call('XRANGE', KEYS[k], '-', '+')) do
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'position' then settled = math.min(settled, tonumber(entry[2][i + 1]) - 1) end
    end
  end
end
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-0', floor + 1))
return {floor, settled}
"""

# ARGV: group, consumer, first, longest, lease (ms), count, suspect, parked.
# Returns parked, ms until the next is due (-1: none), and per entry: redriven, abandoned, attempt, id, fields.
DUE = """
local group, me, parked_by = ARGV[1], ARGV[2], ARGV[8]
local first, longest, lease = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local count, suspect = tonumber(ARGV[6]), tonumber(ARGV[7])
local taken, parked, next_in = {}, 0, -1

local function take(k, id, attempt, abandoned)
  local entry = redis.call('XCLAIM', KEYS[k], group, me, 0, id)[1]
  if entry then taken[#taken + 1] = {k - 1, abandoned, attempt + 1, entry[1], entry[2]} end
end

local function pages(k, each, idle, consumer)
  local from = '-'
  while true do
    local args = {'XPENDING', KEYS[k], group, 'IDLE', idle, from, '+', 100}
    if consumer then args[#args + 1] = consumer end
    local page = redis.call(unpack(args))
    for _, row in ipairs(page) do
      if each(row[1], row[2], row[3], row[4]) then return end
    end
    if #page < 100 then return end
    from = '(' .. page[#page][1]
  end
end

for k = 1, 2 do
  pages(k, function(id, _, idle, attempt)
    local delay = math.min(first * 2 ^ (attempt - 1), longest)
    if idle >= delay and #taken < count then
      take(k, id, attempt, 0)
    else
      parked = parked + 1
      local remaining = math.max(0, delay - idle)
      if next_in < 0 or remaining < next_in then next_in = remaining end
    end
  end, 0, parked_by)
end
for k = 1, 2 do
  pages(k, function(id, consumer, _, attempt)
    if #taken >= count then return true end
    if consumer == parked_by or (attempt >= suspect and #taken > 0) then return false end
    take(k, id, attempt, 1)
    if attempt >= suspect then count = #taken end
    return #taken >= count
  end, lease)
end
return {parked, math.ceil(next_in), taken}
"""

# ARGV: group, consumer, idle (ms: above the longest delay, so that they are due at once), leave, parked,
# then what is kept: 'redriven:id'.
GIVE_BACK = """
local group, consumer, idle, leave, parked_by = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local kept = {}
for i = 6, #ARGV do kept[ARGV[i]] = true end
for k = 1, 2 do
  local from = '-'
  while true do
    local page = redis.call('XPENDING', KEYS[k], group, from, '+', 100, consumer)
    for _, row in ipairs(page) do
      if not kept[(k - 1) .. ':' .. row[1]] then
        local attempt = math.max(0, row[4] - 1)
        redis.call('XCLAIM', KEYS[k], group, parked_by, 0, row[1],
          'IDLE', idle, 'RETRYCOUNT', attempt, 'JUSTID')
      end
    end
    if #page < 100 then break end
    from = '(' .. page[#page][1]
  end
  -- Never with something pending: that would be gone from the group.
  if leave == '1' and #redis.call('XPENDING', KEYS[k], group, '-', '+', 1, consumer) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[k], group, consumer)
  end
end
"""

# ARGV: group, id, redriven, limit, position, reason, detail, attempts, payload. Returns 0 when the dead letters are
# full. XADD before XACK: a script that is refused memory half-way must not have lost the entry.
BURY = """
local key = KEYS[1 + tonumber(ARGV[3])]
if #redis.call('XPENDING', key, ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 1 end
if redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[4]) then return 0 end
local now = redis.call('TIME')
redis.call('XADD', KEYS[3], '*', 'position', ARGV[5], 'reason', ARGV[6], 'detail', ARGV[7], 'attempts', ARGV[8],
  'at', now[1] .. string.format('%03d', math.floor(now[2] / 1000)), 'e', ARGV[9])
redis.call('XACK', key, ARGV[1], ARGV[2])
if ARGV[3] == '1' then redis.call('XDEL', key, ARGV[2]) end
return 1
"""

# ARGV: ids of dead letters.
REDRIVE = """
local moved = 0
for _, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
  if entry then
    local fields = {}
    for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
    redis.call('XADD', KEYS[2], '*', 'position', fields['position'], 'e', fields['e'])
    redis.call('XDEL', KEYS[3], id)
    moved = moved + 1
  end
end
return moved
"""

# ARGV: group, idle (ms), parked.
TIDY = """
for k = 1, 2 do
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[k], ARGV[1])) do
    local consumer = {}
    for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
    if consumer['pending'] == 0 and consumer['idle'] >= tonumber(ARGV[2]) and consumer['name'] ~= ARGV[3] then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[k], ARGV[1], consumer['name'])
    end
  end
end
"""

# ARGV: group. Returns last position, first position kept, last delivered, pending in both, undelivered redriven, dead.
BACKLOG = (
    _LAST
    + """
local out = {last_of(KEYS[1]), 0, 0, 0, 0, redis.call('XLEN', KEYS[3])}
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
out[2] = first and tonumber(string.match(first[1], '^%d+')) or out[1] + 1
for k = 1, 2 do
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[k])) do
    local group = {}
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
    if group['name'] == ARGV[1] then
      out[4] = out[4] + group['pending']
      if k == 1 then out[3] = tonumber(string.match(group['last-delivered-id'], '^%d+'))
      else out[5] = redis.call('XLEN', KEYS[2]) - group['pending'] end
    end
  end
end
return out
"""
)
